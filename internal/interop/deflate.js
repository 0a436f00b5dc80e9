// Talks to us compressed, with ws: to a server of ours if there is a PORT, or else as a
// server, on a port that it prints. It sends every message back, and one that starts with
// "fragments" in fragments, with a ping between them.
//
// usage: deflate.js PARAMS [PORT]
//
// PARAMS is JSON: the parameters of permessage-deflate to ask for, or null for none of it.
'use strict';
const { once } = require('events');
const { WebSocket, WebSocketServer } = require('ws');

const [json, port] = process.argv.slice(2);
const params = JSON.parse(json);
const options = {
  maxPayload: 2 << 20,
  perMessageDeflate: params && {
    serverNoContextTakeover: params.server_no_context_takeover,
    clientNoContextTakeover: params.client_no_context_takeover,
    serverMaxWindowBits: params.server_max_window_bits,
    clientMaxWindowBits: params.client_max_window_bits,
    threshold: 0,
  },
};

// agreed says what has been agreed on for what one side sends.
function agreed(socket, side) {
  const params = socket._extensions['permessage-deflate']?.params;
  if (!params) return 'plain';
  const bits = params[`${side}_max_window_bits`] ?? 15;
  return `${bits} ${params[`${side}_no_context_takeover`] ? 'reset' : 'takeover'}`;
}

function talk(socket, mine, yours) {
  console.log(`reads ${agreed(socket, yours)}, writes ${agreed(socket, mine)}`);
  socket.on('message', async (data, binary) => {
    if (binary || !data.toString().startsWith('fragments')) {
      socket.send(data, { binary });
      return;
    }
    socket.send(data.subarray(0, 1000), { binary, fin: false });
    socket.ping('purr');
    await once(socket, 'pong');
    socket.send(data.subarray(1000), { binary, fin: true });
  });
  socket.on('error', (err) => console.error(err)); // a 'close' follows
  socket.on('close', (code) => console.log(`closed ${code}`));
}

if (port) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, options);
  socket.on('open', () => talk(socket, 'client', 'server'));
} else {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, ...options });
  server.on('listening', () => console.log(`Listening on port ${server.address().port}.`));
  server.on('connection', (socket) => talk(socket, 'server', 'client'));
}
