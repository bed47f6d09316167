// The stream: one EventSource for ticker and wire. The origin asks the gateway to
// hold it on two channels.

import { $, setStatus } from "./dom.js";
import { again, Backoff, isSeen, whenSeen } from "./link.js";

export function startStream({ ticker, wire }) {
  const statuses = [$("ticker-status"), $("wire-status")];
  const show = (state, text) => statuses.forEach((status) => setStatus(status, state, text));
  const backoff = new Backoff();
  let source = null;
  let timer = 0;

  function open() {
    clearTimeout(timer);
    source?.close();
    show("wait", "connecting");
    const own = new EventSource("/ticker?with=wire");
    source = own;
    own.addEventListener("past", (event) => {
      backoff.reset();
      show("live", "live");
      ticker.past(event.data);
      wire.begin(ticker.instance());
    });
    own.addEventListener("message", (event) => ticker.tick(event.data));
    own.addEventListener("before", (event) => wire.add(event.data, true));
    own.addEventListener("wire", (event) => wire.add(event.data));
    own.onerror = () => {
      if (source !== own) return;
      // It would try again by itself, but never after an answer that is not 200,
      // and always after the same time.
      own.close();
      source = null;
      const delay = backoff.next();
      show("down", again(delay));
      timer = setTimeout(open, delay);
    };
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
    show("wait", "paused while hidden");
  }

  whenSeen((seen) => {
    if (!seen) close();
    else if (source === null) open();
  });
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => {
    if (event.persisted) open();
  });
  if (isSeen()) open();
}
