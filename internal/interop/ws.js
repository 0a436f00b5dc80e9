// Talks to a server of ours with ws.
//
// usage: ws.js PORT talk|wait|listen
'use strict';
const WebSocket = require('ws');
const { push, next, check, talk } = require('./talk.js');

const [port, mode] = process.argv.slice(2);
const socket = new WebSocket(`ws://127.0.0.1:${port}/cats?lives=9`);
let ended = 'no EOF';
socket.on('upgrade', (response) => response.socket.on('end', () => { ended = 'EOF'; }));
socket.on('message', (data, binary) => push(binary ? 'binary' : 'text', data.toString()));
socket.on('pong', (data) => push('pong', data.toString()));
socket.on('error', (err) => { throw err; });
// The code is that of the server's close frame, or 1006 if none has come.
socket.on('close', (code) => { push('close', String(code)); push('end', ended); });

async function more() {
  socket.send('frag', { fin: false });
  socket.ping('purr');
  socket.send('mented', { fin: true });
  check('pong', await next('pong'), 'purr');
  check('fragmented', await next('text'), 'fragmented, meow.');
}

talk({
  send: (text) => socket.send(text),
  transport: () => socket._socket,
  more,
  close: () => socket.close(1000),
}, mode, '1000', '1001');
