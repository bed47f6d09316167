// The page's table of contents.

import { startChat } from "./chat.js";
import { windowSecret } from "./link.js";
import { startPoll } from "./poll.js";
import { startShell } from "./shell.js";
import { startStream } from "./stream.js";
import { startTicker } from "./ticker.js";
import { startWire } from "./wire.js";

// clockErrorMax is in ms: above it nothing is shown that depends on two clocks.
const clockErrorMax = 20;

// clocks knows how far the origin's clock is from this one, from the quickest
// exchange so far: half of it is how wrong that can be.
const clocks = {
  best: Infinity,
  ahead: 0,
  // note takes an exchange of so many ms that was answered at the origin's time.
  note(took, theirs) {
    if (took > this.best) return;
    this.best = took;
    this.ahead = theirs - (performance.timeOrigin + performance.now() - took / 2);
  },
  // since is how many ms ago the origin's time was, but no less than how wrong
  // that can be; null as long as that is too much.
  since(theirs) {
    if (this.best > clockErrorMax) return null;
    return Math.max(this.best / 2, performance.timeOrigin + performance.now() + this.ahead - theirs);
  },
};

const who = windowSecret();
const chat = startChat({ who, clocks });
const wire = startWire({ you: chat.you });
const ticker = startTicker({ clocks });
startStream({ ticker, wire });
startPoll({ who });
startShell();
