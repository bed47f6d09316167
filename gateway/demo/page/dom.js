// Small helpers to build and change the page. Text is only ever put in as text.

export const $ = (id) => document.getElementById(id);

// el makes an element: el("p", {class: "note", title: "…"}, "text", child).
// Children that are null or false are left out.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// setText changes an element's text if it is another: screen readers repeat what
// is set.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// avatar is a person's mark.
export function avatar(person) {
  const initials = person.name.split(" ").map((word) => word[0]).join("");
  const mark = el("span", { class: "avatar", "aria-hidden": "true" }, initials);
  mark.style.setProperty("--hue", String(person.hue));
  return mark;
}

// readPerson returns a person if that is one, else null. What comes over the wire
// was said by whoever may publish.
export function readPerson(value) {
  if (value === null || typeof value !== "object") return null;
  const { id, name, hue } = value;
  if (typeof id !== "string" || typeof name !== "string" || name === "" || !Number.isFinite(hue)) return null;
  return { id: id.slice(0, 64), name: name.slice(0, 64), hue: ((hue % 360) + 360) % 360 };
}

// readJSON returns an object, or null for anything else.
export function readJSON(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

// setStatus shows how a connection is: live, wait or down.
export function setStatus(element, state, text) {
  element.dataset.state = state;
  setText(element, text);
}

// duration is a number of ms for people: "280 µs", "3.2 ms", "12 ms", "1.4 s".
export function duration(ms) {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

// clock is a time of day.
const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const clock = (ms) => clockFormat.format(new Date(ms));

// Figures keeps the last few durations of something and shows the last and the
// median.
export class Figures {
  #element;
  #values = [];

  constructor(element) {
    this.#element = element;
  }

  add(ms) {
    this.#values.push(ms);
    if (this.#values.length > 50) this.#values.shift();
    const sorted = this.#values.toSorted((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)];
    this.#element.replaceChildren(duration(ms));
    if (sorted.length > 1) this.#element.append(el("small", {}, ` median ${duration(median)}`));
  }
}
