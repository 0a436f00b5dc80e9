// Talks to a server of ours with websocket-client, which speaks hixie-76 only. It
// was written for the first Node.js; what it needs of that is put back here.
//
// usage: hixie.js PORT talk|wait|listen
'use strict';
process.noDeprecation = true;
const crypto = require('crypto');
const events = require('events');
const http = require('http');
const { push, talk } = require('./talk.js');

// A string to be hashed once stood for bytes.
const createHash = crypto.createHash;
crypto.createHash = (name) => {
  const hash = createHash(name);
  const update = hash.update;
  hash.update = (data) => update.call(hash, data, 'binary');
  return hash;
};

// An HTTP client once was an object.
let transport;
http.createClient = (port, host) => {
  const client = new events.EventEmitter();
  client.request = (path, headers) => {
    const request = http.request({ port, host, path, headers, agent: false });
    request.on('error', (err) => { throw err; });
    request.on('response', (response) => { throw new Error(`status ${response.statusCode}`); });
    request.on('upgrade', (response, socket, head) => {
      const location = response.headers['sec-websocket-location'];
      if (location !== url) throw new Error(location); // the library does not look
      transport = socket;
      socket.on('end', () => push('end', 'EOF'));
      socket.destroy = () => {}; // else the server's end would not be seen
      client.emit('upgrade', response, socket, head);
    });
    return request;
  };
  return client;
};

const { WebSocket } = require('websocket-client');

const [port, mode] = process.argv.slice(2);
const url = `ws://127.0.0.1:${port}/cats?lives=9`;
const socket = new WebSocket(url, undefined, { origin: 'http://127.0.0.1' });
socket.on('data', (data) => push('text', data.toString()));
socket.on('close', () => push('close', 'FF 00'));

talk({
  send: (text) => socket.send(text),
  transport: () => transport,
  close: () => socket.close(),
}, mode, 'FF 00', 'FF 00');
