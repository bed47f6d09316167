// A guest: a program for Fastly Compute that leaves its clients to Fanout. It looks
// at each request once, and has gone while the client stays.
import { createFanoutHandoff } from 'fastly:fanout';

// The origin's name in fastly.toml.
const backend = 'origin';

addEventListener('fetch', (event) => event.respondWith(serve(event.request)));

async function serve(request) {
  if (goesToFanout(request)) {
    return createFanoutHandoff(request, backend);
  }
  // All else is proxied, and may be cached on the way.
  return fetch(request, { backend });
}

// goesToFanout says which requests the origin may want to be held. An app would
// know by the path, or by a header.
function goesToFanout(request) {
  return request.method === 'GET' || request.method === 'HEAD'; // WebSockets begin with a GET
}
