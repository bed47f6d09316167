// The chat: one WebSocket to the gateway, which asks the origin about each message
// with POST /chat. What everybody sees comes back by publishing.

import { $, avatar, clock, el, Figures, readJSON, readPerson, setStatus, setText } from "./dom.js";
import { again, Backoff, isSeen, whenSeen } from "./link.js";

const messagesMax = 200; // shown
const peopleMax = 8; // shown in the header; the rest is a number
const waitingMax = 20; // own messages whose way is measured
const openTimeout = 10_000; // ms for a WebSocket to open and be welcomed
const firstSyncs = 3; // soon after another: the quickest tells how far the clocks differ
const firstSyncEvery = 2_500; // ms
const syncEvery = 45_000; // ms between questions whether something was missed
const syncTimeout = 10_000; // ms for their answer, or the connection is dead
const typingEvery = 2_000; // ms between hints to others
const typingFor = 3_500; // ms that a hint is shown
const goneAfter = 2_500; // ms until a line says that somebody left: a reload is quicker

export function startChat({ who, clocks }) {
  const status = $("chat-status");
  const list = $("messages");
  const view = list.parentElement; // scrolls
  const input = $("say");
  const note = $("say-note");
  const trip = new Figures($("chat-trip"));
  const echo = new Figures($("chat-echo"));
  const backoff = new Backoff();

  let socket = null;
  let timer = 0; // of the next try, of the welcome, or of the next sync
  let answerTimer = 0; // of a sync
  let you = null;
  let instance = "";
  let textMax = 500;
  let last = 0; // n of the last message before which none is missing
  let rosterVersion = -1;
  let people = new Map(); // by id; null-free
  const waiting = new Map(); // own messages by tag
  const typists = new Map(); // timers by name
  const leaving = new Map(); // timers by id
  let typed = 0;
  let tags = 0;
  let syncs = 0; // on this connection

  // The connection.

  function connect() {
    clearTimeout(timer);
    setStatus(status, "wait", "connecting");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const own = new WebSocket(`${scheme}://${location.host}/chat?who=${who}`);
    socket = own;
    timer = setTimeout(() => own.close(), openTimeout);
    own.onmessage = (event) => {
      if (socket === own && typeof event.data === "string") receive(event.data);
    };
    own.onclose = () => {
      if (socket !== own) return;
      socket = null;
      clearTimeout(timer);
      clearTimeout(answerTimer);
      waiting.clear();
      enable(false);
      const delay = backoff.next();
      setStatus(status, "down", again(delay));
      timer = setTimeout(connect, delay);
    };
  }

  function send(message) {
    if (socket === null || socket.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(message));
    return true;
  }

  // sync asks for what was missed, and finds out whether anybody is there.
  function sync() {
    clearTimeout(timer);
    const own = socket;
    if (!send({ type: "sync", t: Math.round(performance.now() * 10) / 10, last, version: rosterVersion })) return;
    clearTimeout(answerTimer);
    answerTimer = setTimeout(() => own.close(), syncTimeout);
    timer = setTimeout(sync, syncs++ < firstSyncs ? firstSyncEvery : syncEvery);
  }

  whenSeen((seen) => {
    if (!seen) return;
    if (socket === null) connect();
    else if (you !== null) sync();
  });
  addEventListener("pagehide", () => {
    const old = socket;
    socket = null;
    clearTimeout(timer);
    clearTimeout(answerTimer);
    old?.close();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted && socket === null) connect();
  });

  // What comes.

  function receive(text) {
    const message = readJSON(text);
    switch (message?.type) {
      case "welcome":
        if (welcome(message)) return;
        break;
      case "said":
        if (said(message)) return;
        break;
      case "roster":
        if (roster(message)) return;
        break;
      case "typing":
        typing(readPerson(message.from));
        return;
      case "synced":
        synced(message);
        return;
      case "refused":
        refuse(message);
        return;
    }
    // Somebody publishes by hand.
    append(line("by-hand", el("span", { class: "who" }, "published by hand"), el("bdi", { class: "text" }, text.slice(0, 2000))));
  }

  function welcome(message) {
    const person = readPerson(message.you);
    if (person === null || !Array.isArray(message.history)) return false;
    you = person;
    if (message.instance !== instance) {
      instance = message.instance;
      last = 0;
      rosterVersion = -1;
      people = new Map();
      list.replaceChildren();
    }
    if (Number.isInteger(message.textMax)) textMax = message.textMax;
    backoff.reset();
    setStatus(status, "live", "live");
    if (message.roster !== null) roster(message.roster);
    for (const old of message.history) said(old);
    if (last === 0 && message.history.length === 0) hint();
    enable(true);
    syncs = 0;
    sync();
    return true;
  }

  function hint() {
    if (list.childElementCount > 0) return;
    append(el("li", { class: "line hint" }, "Nothing was said yet. Open a second window, and talk to yourself."));
  }

  function said(message) {
    const from = readPerson(message.from);
    const { n, t, text, tag } = message;
    if (from === null || typeof text !== "string" || !Number.isInteger(n) || !Number.isFinite(t)) return false;
    const sent = from.id === you?.id ? waiting.get(tag) : undefined;
    if (sent !== undefined) {
      waiting.delete(tag);
      trip.add(performance.now() - sent.at);
    }
    if (n <= last || list.querySelector(`[data-n="${n}"]`) !== null) return true;
    if (n === last + 1 || last === 0) last = n;
    else if (n > last + 1) sync(); // some are missing
    stopTyping(from.name);
    list.querySelector(".hint")?.remove();
    const item = line(from.id === you?.id ? "own" : "other",
      avatar(from),
      el("span", { class: "who" }, el("bdi", {}, from.name), el("time", { datetime: new Date(t).toISOString() }, clock(t))),
      el("bdi", { class: "text" }, text));
    item.dataset.n = String(n);
    item.dataset.from = from.id;
    append(item);
    return true;
  }

  function synced(message) {
    clearTimeout(answerTimer);
    const now = performance.now();
    if (Number.isFinite(message.asked) && Number.isFinite(message.now)) {
      echo.add(now - message.asked);
      clocks.note(now - message.asked, message.now);
    }
    if (message.roster) roster(message.roster);
    if (Array.isArray(message.messages)) {
      for (const old of message.messages) said(old);
      const newest = message.messages.at(-1);
      if (Number.isInteger(newest?.n)) last = Math.max(last, newest.n); // older ones are forgotten
    }
  }

  function refuse(message) {
    const sent = waiting.get(message.tag);
    waiting.delete(message.tag);
    if (sent !== undefined && input.value === "") input.value = sent.text;
    notice(String(message.why ?? "That was refused."));
  }

  // People.

  function roster(message) {
    if (!Array.isArray(message.people) || !Number.isInteger(message.version)) return false;
    if (message.version <= rosterVersion) return true;
    const first = rosterVersion < 0;
    rosterVersion = message.version;
    const now = new Map();
    for (const value of message.people) {
      const person = readPerson(value);
      if (person !== null) now.set(person.id, { ...person, windows: Number(value.windows) || 1 });
    }
    if (!first) changes(people, now);
    people = now;
    const total = Number.isInteger(message.total) ? message.total : now.size;
    showPeople(total);
    return true;
  }

  // changes writes who came and who left.
  function changes(before, now) {
    for (const [id, person] of now) {
      if (before.has(id)) continue;
      if (leaving.has(id)) {
        clearTimeout(leaving.get(id));
        leaving.delete(id);
      } else if (id !== you?.id) {
        append(el("li", { class: "line event" }, avatar(person), `${person.name} is here`));
      }
    }
    for (const [id, person] of before) {
      if (now.has(id) || id === you?.id || leaving.has(id)) continue;
      stopTyping(person.name);
      leaving.set(id, setTimeout(() => {
        leaving.delete(id);
        if (!people.has(id)) append(el("li", { class: "line event" }, avatar(person), `${person.name} left`));
      }, goneAfter));
    }
  }

  function showPeople(total) {
    const shown = [...people.values()].sort((a, b) => (b.id === you?.id) - (a.id === you?.id));
    const items = shown.slice(0, peopleMax).map((person) => {
      const self = person.id === you?.id;
      const windows = person.windows > 1 ? `, ${person.windows} windows` : "";
      const item = el("li", { "data-id": person.id, title: `${person.name}${self ? " (you)" : ""}${windows}` },
        avatar(person), el("span", { class: "name" }, self ? `${person.name} (you)` : person.name));
      if (self) item.classList.add("self");
      return item;
    });
    if (total > items.length) items.push(el("li", { class: "more" }, `+${total - items.length}`));
    $("people").replaceChildren(...items);
    setText($("count"), total === 1 ? "only you" : `${total} here`);
  }

  function typing(person) {
    if (person === null || person.id === you?.id) return;
    clearTimeout(typists.get(person.name));
    typists.set(person.name, setTimeout(() => stopTyping(person.name), typingFor));
    showTypists();
  }

  function stopTyping(name) {
    clearTimeout(typists.get(name));
    typists.delete(name);
    showTypists();
  }

  function showTypists() {
    const names = [...typists.keys()];
    let text = "";
    if (names.length === 1) text = `${names[0]} is typing…`;
    else if (names.length === 2) text = `${names[0]} and ${names[1]} are typing…`;
    else if (names.length > 2) text = `${names.length} people are typing…`;
    setText($("typing"), text);
  }

  // The list.

  function line(kind, ...children) {
    const item = el("li", { class: `line ${kind}` }, ...children);
    return item;
  }

  // atEnd is whether the newest is in view: then it stays so, whatever comes and
  // however the window changes.
  let atEnd = true;
  view.addEventListener("scroll", () => {
    atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 40;
  });
  new ResizeObserver(() => {
    if (atEnd) view.scrollTop = view.scrollHeight;
  }).observe(view);

  function append(item) {
    const before = list.lastElementChild;
    if (item.dataset.from && before?.dataset.from === item.dataset.from) item.classList.add("same");
    list.append(item);
    while (list.childElementCount > messagesMax) list.firstElementChild.remove();
    if (atEnd || item.classList.contains("own")) view.scrollTop = view.scrollHeight;
  }

  // What is said.

  function enable(on) {
    input.disabled = !on;
    $("send").disabled = !on;
    if (on && document.activeElement === document.body && matchMedia("(hover: hover)").matches) input.focus({ preventScroll: true });
  }

  function notice(text) {
    setText(note, text);
    note.dataset.state = text === "" ? "" : "warn";
  }

  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text === "") return;
    if ([...text].length > textMax) {
      notice(`At most ${textMax} characters: these are ${[...text].length}.`);
      return;
    }
    const tag = `${instance}.${++tags}`.slice(0, 32);
    if (!send({ type: "say", text, tag })) {
      notice("There is no connection just now.");
      return;
    }
    waiting.set(tag, { at: performance.now(), text });
    if (waiting.size > waitingMax) waiting.delete(waiting.keys().next().value);
    input.value = "";
    typed = 0;
    notice("");
  });

  input.addEventListener("input", () => {
    const length = [...input.value].length;
    notice(length > textMax * 0.8 ? `${length} of ${textMax}` : "");
    note.dataset.state = length > textMax ? "warn" : "";
    const now = performance.now();
    if (input.value !== "" && (typed === 0 || now - typed > typingEvery)) {
      typed = now;
      send({ type: "typing" });
    }
  });

  if (isSeen()) connect();
  return { you: () => you };
}
