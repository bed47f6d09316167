// Somebody in the chat: node client.js URL [TEXT…] says the texts and shows what
// is said, until Ctrl-C.
import WebSocket from 'ws';

const [url, ...texts] = process.argv.slice(2);
const socket = new WebSocket(url);
socket.on('open', () => texts.forEach(text => socket.send(text)));
socket.on('message', data => console.log(data.toString()));
socket.on('close', (code, reason) => console.log(`closed: ${code} ${reason}`));
socket.on('error', error => console.log(error.message));
process.on('SIGINT', () => socket.close(1000));
