// An origin made with the libraries of old, grip 1.6 and pubcontrol 1.3. It says
// where it listens, and publishes what it is told: CHANNEL KIND TEXT, line by line.
const http = require('http');
const grip = require('grip');
const pubcontrol = require('pubcontrol');

const config = grip.parseGripUri(process.env.GRIP_URL);
const publisher = new grip.GripPubControl(config);

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    if (!grip.validateSig(request.headers['grip-sig'], process.env.VERIFY_KEY)) {
      response.writeHead(403).end('come through the gateway\n');
      return;
    }
    switch (new URL(request.url, 'http://origin').pathname) {
      case '/stream':
        response.setHeader('Content-Type', 'application/grip-instruct');
        response.end(grip.createHoldStream('news', new grip.Response({ headers: { 'X-From': 'old' }, body: 'hello\n' })));
        break;
      case '/poll':
        response.setHeader('Content-Type', 'application/grip-instruct');
        response.end(grip.createHoldResponse('news', new grip.Response({ body: 'nothing new\n' }), 30));
        break;
      case '/headers':
        response.setHeader('Grip-Hold', 'stream');
        response.setHeader('Grip-Channel', grip.createGripChannelHeader([new grip.Channel('news'), new grip.Channel('more')]));
        response.end('hello\n');
        break;
      case '/chat':
        chat(request, response, Buffer.concat(chunks));
        break;
      default:
        response.writeHead(404).end();
    }
  });
});

function chat(request, response, body) {
  const meta = {};
  for (const [name, value] of Object.entries(request.headers)) {
    if (name.startsWith('meta-')) meta[name.slice(5)] = value;
  }
  const ws = new grip.WebSocketContext(request.headers['connection-id'], meta, grip.decodeWebSocketEvents(body), '');
  if (ws.isOpening()) {
    ws.accept();
    ws.subscribe('news');
    ws.meta.name = 'ann';
    ws.send('welcome');
  }
  while (ws.canRecv()) {
    const message = ws.recv();
    if (message == null) {
      ws.close(ws.closeCode);
      break;
    }
    if (message === 'bye') ws.close(4000);
    else ws.send(`${ws.origMeta.name}: ${message}`);
  }
  response.setHeader('Content-Type', 'application/websocket-events');
  if (ws.accepted) response.setHeader('Sec-WebSocket-Extensions', 'grip');
  for (const name of Object.keys(ws.meta)) response.setHeader('Set-Meta-' + name, ws.meta[name]);
  const events = [];
  if (ws.accepted) events.push(new grip.WebSocketEvent('OPEN'));
  events.push(...ws.outEvents);
  if (ws.closed) {
    const code = Buffer.alloc(2);
    code.writeUInt16BE(ws.outCloseCode);
    events.push(new grip.WebSocketEvent('CLOSE', code));
  }
  response.end(grip.encodeWebSocketEvents(events));
}

const formats = {
  stream: (text) => new grip.HttpStreamFormat(text + '\n'),
  response: (text) => new grip.HttpResponseFormat({ code: 201, reason: 'Told', headers: { 'X-Push': 'old' }, body: text + '\n' }),
  message: (text) => new grip.WebSocketMessageFormat(text),
  close: () => new grip.HttpStreamFormat(null, true),
};

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const [channel, kind, ...text] = line.split(' ');
  publisher.publish(channel, new pubcontrol.Item(formats[kind](text.join(' '))), (ok, message, context) => {
    console.log('published', ok, ok ? 200 : context.statusCode);
  });
});
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('listening'));
