// Talks over HTTP/2 to a server of ours with the WebSocket that Node has built in.
//
// usage: http2.js URL
'use strict';
const { push, next, check } = require('./talk.js');

const socket = new WebSocket(process.argv[2], ['purr', 'meow']);
socket.onopen = () => push('open', socket.protocol);
socket.onmessage = (event) => push('text', event.data);
socket.onerror = (event) => { throw event.error; };
socket.onclose = (event) => push('close', `${event.code} ${event.reason}`);
const alive = setInterval(() => {}, 1000); // nothing else keeps the process waiting

(async () => {
  check('open', await next('open'), 'meow');
  check('greeting', await next('text'), 'Do you read me, Lieutenant Bowie?');
  for (const text of ['hello', '', '\u03b3\u03ac\u03c4\u03b1 \u{1f431}']) {
    socket.send(text);
    check('answer', await next('text'), `${text}, meow.`);
  }
  const large = '0123456789'.repeat(7000);
  socket.send(large);
  const answer = await next('text');
  if (answer !== `${large}, meow.`) throw new Error('large: other bytes');
  check('large', `${answer.length} bytes`, '70007 bytes');
  socket.close(3000, 'bye');
  check('close', (await next('close')).split(' ')[0], '3000');
  clearInterval(alive);
})();
