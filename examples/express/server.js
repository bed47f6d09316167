// An Express app that pushes: Server-Sent Events, long-polling and a WebSocket
// chat. It answers every request at once and keeps no connection: the gateway
// does. The GRIP libraries are those from npm, as they are.
import express from 'express';
import { HttpResponseFormat, HttpStreamFormat, WebSocketMessageFormat } from '@fanoutio/grip';
import { ServeGrip } from '@fanoutio/serve-grip';

const port = process.env.PORT ?? 8000;
const serveGrip = new ServeGrip({ grip: process.env.GRIP_URL ?? 'http://localhost:5561' });
const publisher = serveGrip.getPublisher();

const app = express();
app.get('/', (req, res) => res.sendFile('index.html', { root: import.meta.dirname }));

// Whoever could reach us around the gateway could speak for any client, so all
// that follows is for the gateway only. serve-grip 2.0.0 does not see to that: it
// takes any Grip-Sig for a good one. @fanoutio/grip does look.
app.use(async (req, res, next) => {
  const { isProxied } = await publisher.validateGripSig(req.headers['grip-sig']);
  if (isProxied) {
    next();
  } else {
    res.status(403).type('text').send('come through the gateway\n');
  }
});
app.use(serveGrip); // req.grip, res.grip

// Server-Sent Events: the gateway keeps the response open and appends to it.

app.get('/news', (req, res) => {
  const instruct = res.grip.startInstruct();
  instruct.addChannel('news');
  instruct.setHoldStream();
  instruct.setKeepAlive(':\n\n', 20); // a comment after 20 s of silence
  res.type('text/event-stream').set('Cache-Control', 'no-store').end(event('welcome'));
});

app.post('/news', express.text({ type: '*/*', limit: '10kb' }), async (req, res) => {
  await publisher.publishFormats('news', new HttpStreamFormat(event(req.body ?? '')));
  res.type('text').send('said\n');
});

// event writes a text as a Server-Sent Event. What is not ours must not write
// fields and events of its own, so each of its lines becomes one of data.
function event(text) {
  return text.split(/\r\n|\r|\n/).map(line => `data: ${line}\n`).join('') + '\n';
}

// Long-polling: who knows the value waits for another; the gateway keeps the
// answer back meanwhile.

let counter = 0; // with several processes of this app it would be in a database

app.get('/counter', (req, res) => {
  res.set({ ETag: `"${counter}"`, 'Cache-Control': 'no-store' });
  if (req.headers['if-none-match'] !== `"${counter}"`) {
    res.type('text').end(`${counter}\n`);
    return;
  }
  const instruct = res.grip.startInstruct();
  instruct.addChannel('counter');
  instruct.setHoldLongPoll(25); // seconds
  res.status(304).end();
});

app.post('/counter', async (req, res) => {
  const value = ++counter;
  await publisher.publishFormats('counter', new HttpResponseFormat({
    headers: { ETag: `"${value}"`, 'Content-Type': 'text/plain; charset=utf-8' },
    body: `${value}\n`,
  }));
  res.type('text').send(`${value}\n`);
});

// WebSockets: what happens on them comes as POSTs. Everybody in the chat hears
// what is published to its channel.

app.post('/chat', async (req, res) => {
  const socket = req.grip.wsContext;
  if (socket == null) {
    res.status(400).type('text').send('want a WebSocket\n');
    return;
  }
  const say = text => publisher.publishFormats('chat', new WebSocketMessageFormat(text));
  if (socket.isOpening()) {
    if (!req.query.name) {
      res.status(400).type('text').send('want a name, as in ?name=ann\n'); // no accept: no WebSocket
      return;
    }
    socket.accept();
    // Meta comes back with every request of this WebSocket. It travels in headers.
    socket.meta.name = encodeURIComponent(req.query.name);
    socket.subscribe('chat');
    socket.send(`welcome, ${req.query.name}`);
  }
  const name = decodeURIComponent(socket.meta.name);
  while (socket.canRecv()) {
    let text;
    try {
      text = socket.recv();
    } catch {
      await say(`${name} is gone`); // without a word
      break;
    }
    if (text === null) {
      socket.close(socket.closeCode ?? 1000); // without a code the library sends 0, which is none
      await say(`${name} has left`);
      break;
    }
    await say(`${name}: ${text}`);
  }
  res.end(); // writes what the gateway is to do
});

app.listen(port, 'localhost', error => {
  if (error) {
    throw error;
  }
  console.log(`origin: http://localhost:${port}`);
});
