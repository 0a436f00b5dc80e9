// Serves our client with ws, on a port that it prints.
'use strict';
const { once } = require('events');
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  maxPayload: 1 << 20,
  verifyClient: ({ req }, done) => done(req.url !== '/dogs', 403, 'No dogs here.', { Cat: 'Felix' }),
  handleProtocols: (offered) => ['meow', 'purr'].find((name) => offered.has(name)) ?? false,
});
server.on('listening', () => console.log(`Listening on port ${server.address().port}.`));
server.on('headers', (headers, request) => {
  headers.push('Set-Cookie: tail=long');
  request.socket.cork(); // the greeting leaves together with the response
});

async function answer(socket, request, data, binary) {
  const [command, code, ...reason] = binary ? [] : data.toString().split(' ');
  switch (command) {
    case 'request': {
      const { cookie, cat, authorization } = request.headers;
      socket.send([request.url, socket.protocol, cookie, cat, authorization].join(', '));
      break;
    }
    case 'fragments':
      socket.send('frag', { fin: false });
      socket.ping('purr');
      await once(socket, 'pong');
      socket.send('mented', { fin: true });
      break;
    case 'close':
      socket.close(Number(code), reason.join(' '));
      break;
    default:
      socket.send(Buffer.concat([data, Buffer.from(', meow.')]), { binary });
  }
}

server.on('connection', (socket, request) => {
  socket.send('Do you read me, Lieutenant Bowie?');
  request.socket.uncork();
  socket.on('message', (data, binary) => answer(socket, request, data, binary));
  socket.on('error', (err) => console.error(err)); // a 'close' follows
  // The code is that of the client's close frame, or 1006 if none has come.
  socket.on('close', (code, reason) => console.log(`closed ${code} ${reason}`));
});
