// The ticker: events of a stream that the gateway holds open.

import { $, Figures, readJSON, setText } from "./dom.js";

const pointsMax = 120;
const noteFor = 15_000; // ms

export function startTicker({ clocks }) {
  const trip = new Figures($("ticker-trip"));
  const tip = $("tip");
  let points = [];
  let instance = "";
  let received = 0;
  let noteTimer = 0;

  const isPoint = (p) => p !== null && typeof p === "object" && Number.isInteger(p.n) && Number.isFinite(p.t) && Number.isFinite(p.v);

  // past takes what was before this window came.
  function past(text) {
    const message = readJSON(text);
    if (message === null || !Array.isArray(message.points)) return;
    instance = message.instance;
    points = message.points.filter(isPoint).slice(-pointsMax);
    draw();
  }

  // tick takes the next point; anything else is a note that somebody publishes.
  function tick(text) {
    const point = readJSON(text);
    if (!isPoint(point)) {
      note(text.slice(0, 300));
      return;
    }
    if (points.length > 0 && point.n <= points.at(-1).n) return;
    points.push(point);
    if (points.length > pointsMax) points.shift();
    received++;
    setText($("ticker-count"), `${received} ${received === 1 ? "event" : "events"}`);
    const late = clocks.since(point.t);
    if (late !== null) trip.add(late);
    draw();
  }

  function note(text) {
    setText($("ticker-note"), text);
    clearTimeout(noteTimer);
    noteTimer = setTimeout(() => setText($("ticker-note"), ""), noteFor);
  }

  function draw() {
    if (points.length < 2) return;
    const values = points.map((p) => p.v);
    const low = Math.min(...values);
    const high = Math.max(...values);
    const range = Math.max(high - low, 1);
    const begin = points.at(-1).n - pointsMax + 1;
    const x = (p) => ((p.n - begin) / (pointsMax - 1)) * 588;
    const y = (p) => 175 - ((p.v - low) / range) * 150;
    const way = points.map((p) => `${x(p).toFixed(1)} ${y(p).toFixed(1)}`).join("L");
    $("line").setAttribute("d", `M${way}`);
    $("area").setAttribute("d", `M${x(points[0]).toFixed(1)} 200L${way}L588 200Z`);
    setText($("high"), high.toFixed(2));
    setText($("low"), low.toFixed(2));
    const now = points.at(-1);
    tip.hidden = false;
    tip.style.setProperty("--x", `${(588 / 600) * 100}%`);
    tip.style.setProperty("--y", `${(y(now) / 200) * 100}%`);

    const change = now.v - points[0].v;
    setText($("price"), now.v.toFixed(2));
    setText($("change"), `${change >= 0 ? "▲" : "▼"} ${Math.abs(change).toFixed(2)} in two minutes`);
    document.querySelector(".ticker").dataset.trend = change >= 0 ? "up" : "down";
  }

  return { past, tick, instance: () => instance };
}
