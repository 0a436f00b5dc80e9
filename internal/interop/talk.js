// What ws.js and hixie.js say to a server of ours.
'use strict';

// What has come, in order, and who waits for it.
const queue = [];
let wake = () => {};

function push(type, data) {
  queue.push([type, data]);
  wake();
}

async function next(type) {
  while (queue.length === 0) await new Promise((resolve) => { wake = resolve; });
  const [got, data] = queue.shift();
  if (got !== type) throw new Error(`${got} ${data} in place of ${type}`);
  return data;
}

// check prints what came and throws if it is not what was expected.
function check(name, got, want) {
  console.log(`${name}: ${got}`);
  if (got !== want) throw new Error(`${name}: want ${want}`);
}

// talk holds the conversation. A client has the functions send, transport, which
// returns its socket, and close. If it has more, that is called before it closes.
// normal and goingAway are what it pushes as 'close' for these.
async function talk(client, mode, normal, goingAway) {
  check('greeting', await next('text'), 'Do you read me, Lieutenant Bowie?');
  if (mode !== 'talk') {
    if (mode === 'listen') check('broadcast', await next('text'), 'Night falls.');
    check('close', await next('close'), goingAway);
    check('end', await next('end'), 'EOF');
    return;
  }

  client.send('hello');
  check('hello', await next('text'), 'hello, meow.');

  client.send('');
  check('empty', await next('text'), ', meow.');

  const cat = '\u03b3\u03ac\u03c4\u03b1 \u{1f431}';
  client.send(cat);
  check('unicode', await next('text'), `${cat}, meow.`);

  const large = '0123456789'.repeat(7000);
  client.send(large);
  const answer = await next('text');
  if (answer !== `${large}, meow.`) throw new Error('large: other bytes');
  check('large', `${answer.length} bytes`, '70007 bytes');

  // What a corked socket is given leaves with one call of write.
  client.transport().cork();
  for (const text of ['one', 'two', 'three']) client.send(text);
  client.transport().uncork();
  const batch = [await next('text'), await next('text'), await next('text')];
  check('batch', batch.join(' '), 'one, meow. two, meow. three, meow.');

  if (client.more) await client.more();

  client.close();
  check('close', await next('close'), normal);
  check('end', await next('end'), 'EOF');
}

module.exports = { push, next, check, talk };
