// What all three kinds of connection share: when to try again, and when not to
// hold one.

const firstDelay = 400; // ms
const longestDelay = 15_000; // ms

// hiddenAfter is how long, in ms, a window may be out of sight until it lets go of
// its HTTP connections. A browser opens only six to one address, for all windows
// together: windows that nobody sees must not take them.
const hiddenAfter = 3_000;

// Backoff says how long to wait before the next try: longer each time, and not the
// same for all who lost their connection at one moment.
export class Backoff {
  #tries = 0;

  next() {
    const delay = Math.min(longestDelay, firstDelay * 2 ** this.#tries++);
    return delay * (0.75 + Math.random() / 2);
  }

  reset() {
    this.#tries = 0;
  }
}

// again says when, for a status.
export const again = (ms) => `again in ${Math.max(1, Math.round(ms / 1000))} s`;

const watchers = new Set();
let seen = true;
let hiding = 0;

// whenSeen calls back with true and false as the window comes into sight and has
// been out of it for a while, and when the network is there again.
export function whenSeen(callback) {
  watchers.add(callback);
}

export const isSeen = () => seen;

function tell(value) {
  seen = value;
  for (const callback of watchers) callback(value);
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.visibilityState === "visible") tell(true);
  else hiding = setTimeout(() => tell(false), hiddenAfter);
});
addEventListener("online", () => tell(seen));

// windowSecret is what this window calls itself to the origin, which makes a name
// of it. It stays over a reload and goes with the window.
export function windowSecret() {
  const key = "gripway-demo-who";
  let secret = null;
  try {
    secret = sessionStorage.getItem(key);
  } catch {
    // Without storage the name is new after a reload.
  }
  if (secret === null || !/^[0-9a-f]{32}$/.test(secret)) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    secret = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    try {
      sessionStorage.setItem(key, secret);
    } catch {
      // As above.
    }
  }
  return secret;
}
