// What travels between gateway and origin: records that the origin makes of every
// request and answer, itself a stream that the gateway holds.

import { $, clock, duration, el, readJSON, setText } from "./dom.js";

const recordsMax = 150; // shown
const pausedMax = 300; // kept while paused
const dotsMax = 16; // on the way at once
const hop = 420; // ms that a dot takes

export function startWire({ you }) {
  const list = $("records");
  const note = $("wire-note");
  const filters = [...document.querySelectorAll("[data-filter]")];
  let filter = "all";
  let paused = null; // records that came meanwhile
  let last = 0; // n
  let instance = "";
  let dropped = 0;

  // begin forgets all when the origin is another.
  function begin(next) {
    if (next === instance) return;
    instance = next;
    last = 0;
    dropped = 0;
    list.replaceChildren();
  }

  // add takes a record; old ones, of before this window came, have holes.
  function add(text, old = false) {
    const record = readJSON(text);
    if (record === null || !Number.isInteger(record.n) || record.n <= last || !record.request || !record.response) return;
    if (last > 0 && !old && record.n > last + 1) dropped += record.n - last - 1;
    last = record.n;
    if (paused !== null) {
      paused.push(record);
      if (paused.length > pausedMax) paused.shift();
      describe();
      return;
    }
    show(record);
    animate(record);
  }

  function describe() {
    if (paused !== null) setText(note, `Paused. ${paused.length} more since.`);
    else if (dropped > 0) setText(note, `${dropped} came too fast to be shown.`);
    else setText(note, "Press a line to see headers and bodies.");
  }

  function show(record) {
    // A ticker that ticks and nothing else is one line.
    const top = list.firstElementChild;
    const repeats = record.panel === "ticker" && record.kind === "publish" && top?.dataset.repeats === "yes";
    const times = repeats ? Number(top.dataset.times) + 1 : 1;
    if (repeats && (top.querySelector("details").open || top.contains(document.activeElement))) {
      // Somebody reads it.
      top.dataset.repeats = "no";
      show(record);
      return;
    }
    const item = el("li", { class: "record", "data-panel": record.panel, "data-kind": record.kind });
    if (record.who && record.who.id === you()?.id) item.classList.add("own");
    if (record.panel === "ticker" && record.kind === "publish") item.dataset.repeats = "yes";
    item.dataset.times = String(times);
    item.hidden = filter !== "all" && filter !== record.panel;
    item.append(draw(record, times));
    if (repeats) top.replaceWith(item);
    else insert(item);
    while (list.childElementCount > recordsMax) list.lastElementChild.remove();
    describe();
  }

  // insert puts an item on top; who has scrolled down keeps what they look at.
  function insert(item) {
    const reading = list.scrollTop > 4;
    const before = list.scrollHeight;
    list.prepend(item);
    if (reading) list.scrollTop += list.scrollHeight - before;
  }

  function draw(record, times) {
    const publish = record.kind === "publish";
    const head = el("span", { class: "first" },
      el("span", { class: "when" }, clock(record.t)),
      el("span", { class: "tag" }, label(record.panel)),
      el("span", { class: "way" }, publish ? "origin → gateway" : "gateway → origin"),
      record.who && dot(record.who),
      times > 1 && el("span", { class: "times" }, `×${times}`),
      el("span", { class: "took" }, publish && `${record.response.line}, `, duration(Number(record.took) / 1000)));
    const details = el("details", {}, el("summary", {}, head,
      el("span", { class: "half" }, el("b", {}, String(record.request.line)), " ", ...brief(record.request, publish)),
      !publish && el("span", { class: "half answer" }, el("b", {}, String(record.response.line)), " ", ...brief(record.response, false))));
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) {
        details.append(full(record.request, "Request"), full(record.response, "Answer"));
      }
    });
    return details;
  }

  const label = (panel) => (panel === "poll" ? "question" : String(panel));

  function dot(who) {
    const mark = el("span", { class: "dot", title: String(who.name) });
    mark.style.setProperty("--hue", String(Number(who.hue) || 0));
    return mark;
  }

  // brief is what a half says in one line.
  function brief(half, publish) {
    if (Array.isArray(half.events) && half.events.length > 0) {
      const parts = half.events.flatMap((event) => [
        el("span", { class: "word" }, sized(event)), event.content ? ` ${event.content}  ` : "  ",
      ]);
      if (half.more > 0) parts.push(`and ${half.more} more`);
      return parts;
    }
    const grip = ["Grip-Hold", "Grip-Channel"].flatMap((wanted) => (half.header ?? []).filter(([name]) => name === wanted));
    if (grip.length > 0) return grip.flatMap(([name, value]) => [el("span", { class: "grip" }, `${name}: ${value}`), "  "]);
    if (publish) return content(half.body);
    if (half.body) return [half.body];
    const type = (half.header ?? []).find(([name]) => name === "Content-Type")?.[1];
    return type === "application/websocket-events" ? [el("span", { class: "none" }, "no events")] : [];
  }

  // content is what a publish body has to say, item by item.
  function content(body) {
    const items = readJSON(body)?.items;
    if (!Array.isArray(items)) return [String(body ?? "")];
    return items.flatMap((item) => Object.entries(item.formats ?? {}).flatMap(([format, value]) => [
      el("span", { class: "grip" }, `${item.channel} ${format}`), ` ${String(value.content ?? value.body ?? "").trim()}  `,
    ]));
  }

  const sized = (event) => (event.size >= 0 ? `${event.type} ${Number(event.size).toString(16)}` : String(event.type));

  // full is a half with its headers and body.
  function full(half, title) {
    const rows = [el("div", { class: "start" }, String(half.line))];
    for (const [name, value] of half.header ?? []) {
      rows.push(el("div", { class: /^(Grip|Meta|Set-Meta|Keep-Alive-Interval|Connection-Id|Sec-WebSocket)/.test(name) ? "field grip" : "field" },
        el("span", { class: "name" }, `${name}: `), String(value)));
    }
    const body = [];
    for (const event of half.events ?? []) {
      body.push(el("span", { class: "word" }, sized(event)), el("span", { class: "crlf" }, "\\r\\n"), "\n");
      if (event.size >= 0) body.push(String(event.content ?? ""), el("span", { class: "crlf" }, "\\r\\n"), "\n");
    }
    if (half.more > 0) body.push(`… and ${half.more} more events\n`);
    if (half.body) body.push(pretty(half.body));
    const size = half.bytes > 0 ? `, body ${half.bytes} bytes` : "";
    return el("div", { class: "full" }, el("h3", {}, title + size), ...rows, body.length > 0 && el("pre", { tabindex: "0" }, ...body));
  }

  function pretty(body) {
    const value = readJSON(body);
    return value === null ? body : JSON.stringify(value, null, 2);
  }

  // The dots between browsers, gateway and origin.

  const rails = Object.fromEntries([...document.querySelectorAll("[data-rail]")].map((rail) => [rail.dataset.rail, rail]));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let dots = 0;

  function animate(record) {
    if (still.matches || document.hidden || dots >= dotsMax || Math.abs(Date.now() - record.t) > 3000) return;
    if (record.kind === "publish") {
      fly("right", record.panel, -1, 0);
      fly("left", record.panel, -1, hop);
    } else {
      fly("left", record.panel, 1, 0);
      fly("right", record.panel, 1, hop);
      fly("right", record.panel, -1, 2 * hop);
    }
  }

  function fly(name, panel, direction, delay) {
    const rail = rails[name];
    const mark = el("i", { "data-panel": panel });
    rail.append(mark);
    dots++;
    const far = `translateX(${Math.max(0, rail.clientWidth - 8)}px)`;
    const way = direction > 0 ? ["translateX(0)", far] : [far, "translateX(0)"];
    const flight = mark.animate(
      { transform: way, opacity: [0, 1, 1, 0] },
      { duration: hop, delay, easing: "ease-in-out", fill: "both" });
    flight.onfinish = flight.oncancel = () => {
      dots--;
      mark.remove();
    };
  }

  // The tools.

  for (const button of filters) {
    button.addEventListener("click", () => {
      filter = button.dataset.filter;
      for (const other of filters) other.setAttribute("aria-pressed", String(other === button));
      for (const item of list.children) item.hidden = filter !== "all" && filter !== item.dataset.panel;
    });
  }
  $("wire-pause").addEventListener("click", (event) => {
    const button = event.currentTarget;
    if (paused === null) {
      paused = [];
    } else {
      const records = paused;
      paused = null;
      for (const record of records) show(record);
    }
    button.setAttribute("aria-pressed", String(paused !== null));
    setText(button, paused === null ? "Pause" : "Go on");
    describe();
  });
  $("wire-clear").addEventListener("click", () => {
    list.replaceChildren();
    dropped = 0;
    if (paused !== null) paused = [];
    describe();
  });

  return { add, begin };
}
