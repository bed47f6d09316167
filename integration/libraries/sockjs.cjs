// Talks through one transport of the real SockJS client, and says what it sees:
// node sockjs.cjs URL TRANSPORT. What it reads, line by line, it sends.
const SockJS = require('sockjs-client');
const [url, transport] = process.argv.slice(2);
const sock = new SockJS(url, null, { transports: [transport] });
sock.onopen = () => console.log('open', sock.transport);
sock.onmessage = (event) => console.log('message', JSON.stringify(event.data));
sock.onclose = (event) => {
  console.log('close', event.code, event.reason);
  process.exit(0);
};
require('readline').createInterface({ input: process.stdin }).on('line', (line) => sock.send(line));
