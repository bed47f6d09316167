// The question: a GET that the gateway holds until the answer changes, and then the
// next GET.

import { $, el, Figures, setStatus, setText } from "./dom.js";
import { again, Backoff, isSeen, whenSeen } from "./link.js";

// crowded is how long, in ms, an answer may be on its way until the window lets go
// of its long-poll: with three windows open the browser has no connection left.
const crowded = 1000;

// heldAfter is after how long, in ms, a request without an answer counts as held
// by the gateway, and not as on its way.
const heldAfter = 800;

export function startPoll({ who }) {
  const status = $("poll-status");
  const options = $("options");
  const trip = new Figures($("poll-trip"));
  const backoff = new Backoff();

  let state = null;
  let held = null; // AbortController of the long-poll
  let heldSince = 0;
  let choice = { asked: 0, index: -1 }; // what this window answered
  let pressed = 0; // when; 0 if nothing is measured
  let skew = 0; // the origin's clock less ours, ms; for the countdown, not for figures
  let wake = () => {};

  // pause waits for ms, or until somebody calls wake.
  const pause = (ms) => new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });

  async function loop() {
    for (;;) {
      if (!isSeen()) {
        setStatus(status, "wait", "paused while hidden");
        await pause(2 ** 31 - 1);
        continue;
      }
      held = new AbortController();
      heldSince = performance.now();
      if (status.dataset.state !== "live") setStatus(status, "wait", "connecting");
      const settled = setTimeout(() => setStatus(status, "live", "live"), heldAfter);
      const url = state === null ? "/poll" : `/poll?after=${encodeURIComponent(state.id)}`;
      try {
        const response = await fetch(url, { signal: held.signal, cache: "no-store" });
        if (!response.ok) throw new Error(`status ${response.status}`);
        const next = await response.json();
        held = null;
        clearTimeout(settled);
        const before = state?.id;
        if (!take(next)) throw new Error("not a question");
        if (next.id === before && performance.now() - heldSince < heldAfter) throw new Error("not held");
        backoff.reset();
        setStatus(status, "live", "live");
        if (pressed > 0 && !next.waited) {
          trip.add(performance.now() - pressed);
          pressed = 0;
        }
      } catch (error) {
        clearTimeout(settled);
        const aborted = held?.signal.aborted;
        held = null;
        if (aborted) {
          pressed = 0;
          await pause(isSeen() ? 50 : 0);
          continue;
        }
        const delay = backoff.next();
        setStatus(status, "down", again(delay));
        await pause(delay);
      }
    }
  }

  whenSeen((seen) => {
    if (!seen) held?.abort();
    wake();
  });

  // take shows a state if it is one.
  function take(next) {
    if (next === null || typeof next !== "object" || typeof next.id !== "string" || typeof next.question !== "string" ||
        !Number.isInteger(next.asked) || !Array.isArray(next.options) || next.options.length > 10 ||
        !next.options.every((o) => typeof o?.label === "string" && Number.isInteger(o.count))) return false;
    const fresh = state === null || state.asked !== next.asked || state.question !== next.question;
    state = next;
    if (Number.isFinite(next.now)) skew = next.now - Date.now();
    if (fresh) build();
    update();
    return true;
  }

  function build() {
    setText($("question"), state.question);
    if (choice.asked !== state.asked) choice = { asked: state.asked, index: -1 };
    const focused = [...options.children].indexOf(document.activeElement);
    options.replaceChildren(...state.options.map((option, index) => {
      const button = el("button", { type: "button", class: "option", "aria-pressed": "false" },
        el("span", { class: "bar", "aria-hidden": "true" }),
        el("span", { class: "label" }, option.label),
        el("span", { class: "votes" }));
      button.addEventListener("click", () => vote(index));
      return button;
    }));
    if (focused >= 0) options.children[Math.min(focused, options.childElementCount - 1)]?.focus();
  }

  function update() {
    const total = Math.max(1, state.options.reduce((sum, option) => sum + option.count, 0));
    state.options.forEach((option, index) => {
      const button = options.children[index];
      button.setAttribute("aria-pressed", String(choice.index === index));
      button.style.setProperty("--part", String(option.count / total));
      setText(button.querySelector(".votes"), option.count === 0 ? "" : String(option.count));
    });
    countdown();
  }

  async function vote(index) {
    const asked = state.asked;
    const started = performance.now();
    pressed = choice.index === index ? 0 : started;
    const release = setTimeout(() => held?.abort(), crowded);
    setText($("poll-note"), "");
    try {
      const response = await fetch("/poll", { method: "POST", body: new URLSearchParams({ who, question: asked, choice: index }) });
      if (response.status !== 200 && response.status !== 409) {
        pressed = 0;
        setText($("poll-note"), (await response.text()).slice(0, 120));
        return;
      }
      const next = await response.json();
      if (response.status === 200 && state.asked === asked) choice = { asked, index };
      if (response.status === 409) {
        pressed = 0;
        setText($("poll-note"), "That question is over. Here is the next.");
      }
      // The long-poll brings the new state, to all windows alike. This one is for
      // when it had to be let go.
      if (held === null) take(next);
      else update();
    } catch {
      pressed = 0;
      setText($("poll-note"), "The answer did not arrive. Try again.");
    } finally {
      clearTimeout(release);
    }
  }

  // countdown tells how long the question stands.
  function countdown() {
    if (state === null) return;
    const left = Number.isFinite(state.over) ? Math.max(0, Math.ceil((state.over - Date.now() - skew) / 1000)) : null;
    setText($("poll-left"), left === null ? "Press one: every window sees it." : `Next question in ${left} s.`);
  }

  setInterval(() => {
    setText($("poll-held"), held === null ? "–" : `${Math.floor((performance.now() - heldSince) / 1000)} s`);
    countdown();
  }, 1000);

  loop();
}
