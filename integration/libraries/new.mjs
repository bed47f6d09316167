// An origin made with @fanoutio/grip 4.3. It says where it listens, and publishes
// what it is told: CHANNEL KIND TEXT, line by line.
import http from 'node:http';
import readline from 'node:readline';
import {
  GripInstruct, HttpResponseFormat, HttpStreamFormat, Item, Publisher, WebSocketContext, WebSocketMessageFormat,
  decodeWebSocketEvents, encodeWebSocketEvents,
} from '@fanoutio/grip';

const publisher = new Publisher(process.env.GRIP_URL);

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { isSigned } = await publisher.validateGripSig(request.headers['grip-sig'] ?? null);
  if (!isSigned) {
    response.writeHead(403).end('come through the gateway\n');
    return;
  }
  const instruct = new GripInstruct('news');
  switch (new URL(request.url, 'http://origin').pathname) {
    case '/stream':
      instruct.setHoldStream();
      response.writeHead(200, instruct.toHeaders({ 'X-From': 'new' })).end('hello\n');
      break;
    case '/poll':
      instruct.setHoldLongPoll(30);
      response.writeHead(200, instruct.toHeaders()).end('nothing new\n');
      break;
    case '/headers':
      instruct.addChannel('more');
      instruct.setHoldStream();
      instruct.setKeepAlive('alive\n', 1);
      response.writeHead(200, instruct.toHeaders()).end('hello\n');
      break;
    case '/chat':
      chat(request, response, Buffer.concat(chunks));
      break;
    default:
      response.writeHead(404).end();
  }
});

function chat(request, response, body) {
  const meta = {};
  for (const [name, value] of Object.entries(request.headers)) {
    if (name.startsWith('meta-')) meta[name.slice(5)] = value;
  }
  const ws = new WebSocketContext(request.headers['connection-id'], meta, decodeWebSocketEvents(body));
  if (ws.isOpening()) {
    ws.accept();
    ws.subscribe('news');
    ws.meta.name = 'ann';
    ws.send('welcome');
  }
  while (ws.canRecv()) {
    const message = ws.recv();
    if (message == null) {
      ws.close();
      break;
    }
    if (message === 'bye') ws.close(4000);
    else ws.send(`${ws.origMeta.name}: ${message}`);
  }
  response.writeHead(200, ws.toHeaders()).end(encodeWebSocketEvents(ws.getOutgoingEvents()));
}

const formats = {
  stream: (text) => new HttpStreamFormat(text + '\n'),
  response: (text) => new HttpResponseFormat({ code: 201, reason: 'Told', headers: { 'X-Push': 'new' }, body: text + '\n' }),
  message: (text) => new WebSocketMessageFormat(text),
  close: () => new HttpStreamFormat('', true),
};

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const [channel, kind, ...text] = line.split(' ');
  try {
    await publisher.publish(channel, new Item(formats[kind](text.join(' '))));
    console.log('published true 200');
  } catch (error) {
    console.log('published false', error?.context?.statusCode);
  }
});
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('listening'));
