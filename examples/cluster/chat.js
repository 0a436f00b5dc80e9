"use strict";
const [log, room, rooms, who, people, list, state, countdown, retry, newer, text, send] =
  ["log", "room", "rooms", "who", "people", "nodes", "state", "countdown", "retry", "newer", "text", "send"]
    .map((id) => document.getElementById(id));
const form = document.querySelector("form");
const longest = 1000; // characters in a message; a node allows 4096 bytes
const name = new URLSearchParams(location.search).get("name") || (sessionStorage.name ??= "user_" + Math.floor(Math.random() * 1e4));

let socket;
let base = location.origin; // of the node to connect to
let bases = [base];         // to try, one after the other
let failures = 0;           // attempts to connect since it last did
let timer = 0;              // runs between two attempts

let node = "";     // that we are at
let welcome = false;
let lost = 0;      // when the last connection was, or 0
let nodes = {};    // the URLs of those that live; while NATS is away, ours is not among them
let here = {};     // who is in the room, by node
let heard = {};    // messages that each node has sent to the room, as far as we know
let missed = 0;    // of these we have not got, and have not said so
let mark;          // the last place where we have
let unheard = [];  // messages of ours that have not come back yet

function connect() {
  clearInterval(timer);
  timer = 0;
  show("connecting", "Connecting…");
  const url = new URL("chat?" + new URLSearchParams({room: room.value, name}), base);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = disconnected;
}

// disconnected tries the other nodes before the one that we were at. It waits for one second,
// and after each round twice as long, up to 30, less up to a half, so that the clients of a node
// that has died do not all come in the same moment.
function disconnected() {
  if (welcome) {
    note(`Connection to node ${node} lost`);
    lost = performance.now();
    const dead = [base, nodes[node]];
    const all = [...new Set([location.origin, ...Object.values(nodes)])];
    bases = [...all.filter((url) => !dead.includes(url)), ...all.filter((url) => dead.includes(url))];
  }
  welcome = false;
  here = {};
  showWho();
  giveBack();
  show("offline", "Offline");
  base = bases[failures % bases.length];
  const wait = Math.min(30, 2 ** Math.floor(failures++ / bases.length)) * (1 - Math.random() / 2);
  const end = performance.now() + 1000 * wait;
  const tick = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    if (left <= 0) connect();
    else countdown.textContent = `next try in ${left} s`;
  };
  timer = setInterval(tick, 200);
  tick();
}

function connectNow() {
  if (timer) connect();
}

// giveBack puts what nobody has heard back where it was written.
function giveBack() {
  text.value = [...unheard, text.value].filter(Boolean).join("\n");
  unheard = [];
}

function show(what, words) {
  document.body.dataset.state = what;
  state.textContent = words;
  countdown.textContent = "";
  retry.hidden = what !== "offline";
  send.disabled = what !== "online";
}

function receive(event) {
  switch (event.Type) {
  case "nodes":
    setNodes(event.Node, event.Nodes ?? {});
    break;
  case "here":
    hear(event.Node, event.N ?? 0);
    setHere(event);
    break;
  case "said":
    if (event.N <= heard[event.Node]) { // it was under way when we came
      if (mark?.count > 0) mark.count--, markMissed();
    } else {
      hear(event.Node, event.N - 1);
      heard[event.Node] = event.N;
    }
    if (event.Name === name && event.Text === unheard[0]) unheard.shift();
    say(event.Name, event.Text ?? "");
    break;
  case "welcome": // and nothing is missed from now on
    welcome = true;
    failures = 0;
    if (lost) {
      const seconds = ((performance.now() - lost) / 1000).toFixed(1);
      addMark(`Back on node ${node} after ${seconds} s, `);
      lost = 0;
    } else {
      note(`You are in ${room.value} as ${name}, on node ${node}`);
    }
    showState();
  }
  if (welcome && missed > 0) addMark("");
}

// hear notes how many messages a node has sent to the room. One that has lost its last client
// there counts anew.
function hear(id, n) {
  const before = heard[id] ?? n;
  missed += n >= before ? n - before : n;
  heard[id] = n;
}

function setNodes(own, urls) {
  const away = welcome && own === node && !(own in urls);
  const back = welcome && own === node && !(own in nodes) && own in urls;
  node = own;
  nodes = urls;
  if (away) {
    note("NATS is away: nobody can be heard");
    giveBack();
  } else if (back) {
    note("NATS is back");
  }
  for (const [id, e] of Object.entries(here)) {
    if (id in nodes || !(own in nodes)) continue;
    note(`Node ${id} is gone, and with it ${names(e)}`);
    delete here[id];
  }
  if (welcome) showState();
  showWho();
}

function showState() {
  if (node in nodes) show("online", name);
  else show("away", "Waiting for NATS…");
}

function setHere(event) {
  const before = here[event.Node]?.Names ?? [];
  const now = event.Names ?? [];
  here[event.Node] = event;
  if (!event.Count) delete here[event.Node];
  if (welcome) {
    const came = now.filter((n) => !before.includes(n) && n !== name);
    const left = before.filter((n) => !now.includes(n) && n !== name);
    if (came.length > 0 && came.length < 4) note(`${came.join(", ")} came, on node ${event.Node}`);
    if (left.length > 0 && left.length < 4) note(`${left.join(", ")} left`);
  }
  showWho();
}

function names(event) {
  const more = event.Count - (event.Names?.length ?? 0);
  return [...event.Names ?? [], ...(more > 0 ? [`${more} more`] : [])].join(", ");
}

function showWho() {
  const ids = [...new Set([...Object.keys(nodes), ...Object.keys(here)])].sort();
  const count = Object.values(here).reduce((n, e) => n + e.Count, 0);
  people.textContent = count ? `${count} here, ${ids.length} ${ids.length === 1 ? "node" : "nodes"}` : "Nobody is here";
  list.replaceChildren(...ids.flatMap((id) => {
    const title = element("h2", id === node ? "own" : "", `Node ${id}`);
    const names = element("ul", "", "");
    for (const n of here[id]?.Names ?? []) {
      const item = element("li", "", n);
      item.style.setProperty("--hue", hue(n));
      names.append(item);
    }
    const more = (here[id]?.Count ?? 0) - names.childElementCount;
    if (more) names.append(element("li", "more", `and ${more} more`));
    if (!names.childElementCount) names.append(element("li", "more", "nobody"));
    return [title, names];
  }));
}

// hue is a color of a name.
function hue(name) {
  let h = 0;
  for (const c of name) h = (h * 31 + c.codePointAt(0)) % 65521;
  return h * 137.5 % 360;
}

// element returns an element with a text, which is never taken for HTML.
function element(tag, className, words) {
  const e = document.createElement(tag);
  e.className = className;
  e.textContent = words;
  return e;
}

function clock() {
  const now = new Date();
  const e = element("time", "", now.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"}));
  e.dateTime = now.toISOString();
  return e;
}

function note(words) {
  const item = element("p", "note", words + " · ");
  item.append(clock());
  add(item);
}

// addMark marks where messages are missing.
function addMark(words) {
  mark = {item: element("p", "note gap", ""), words, count: missed};
  missed = 0;
  markMissed();
  add(mark.item);
}

function markMissed() {
  const count = ["nothing was missed", "1 message was missed"][mark.count] ?? `${mark.count} messages were missed`;
  mark.item.textContent = mark.words + count;
}

function say(author, words) {
  const mine = author === name;
  const item = element("div", "said " + (mine ? "mine" : "theirs"), "");
  if (log.lastElementChild?.dataset.author === author) item.classList.add("same");
  item.dataset.author = author;
  item.style.setProperty("--hue", hue(author));
  const body = element("span", "text", words);
  body.dir = "auto"; // and isolates it, whatever its direction is
  item.append(element("span", "name", mine ? "You" : author), body, clock());
  add(item, mine);
}

// add shows an item. It scrolls to the end if that was in sight.
function add(item, always) {
  const follow = always || atEnd();
  log.append(item);
  while (log.childElementCount > 1000) log.firstElementChild.remove();
  if (follow) log.scrollTop = log.scrollHeight;
  else newer.hidden = false;
}

function atEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

// enter goes to the room of the address, at the same node.
function enter() {
  const to = location.hash.slice(1);
  room.value = /^[a-z0-9-]{1,30}$/.test(to) ? to : "lobby";
  document.title = room.value + " · Chat";
  if (![...rooms.options].some((o) => o.value === room.value)) rooms.append(new Option(room.value));
  log.replaceChildren();
  newer.hidden = true;
  welcome = false;
  lost = missed = 0;
  here = {};
  heard = {};
  mark = undefined;
  unheard = [];
  if (socket) socket.onmessage = socket.onclose = null;
  socket?.close();
  connect();
}

form.onsubmit = (event) => {
  event.preventDefault();
  text.focus();
  const words = text.value.trim();
  if (!words || send.disabled) return; // The text stays until it can be sent.
  const first = words.slice(0, longest).replace(/[\ud800-\udbff]$/, ""); // not half an emoji
  unheard.push(first);
  socket.send(first);
  text.value = words.slice(first.length);
};
text.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
};
room.onchange = () => {
  if (room.reportValidity()) location.hash = room.value;
};
log.onscroll = () => { if (atEnd()) newer.hidden = true; };
newer.onclick = () => { log.scrollTop = log.scrollHeight; text.focus(); };
retry.onclick = () => { connectNow(); text.focus(); };
addEventListener("hashchange", enter);
addEventListener("online", connectNow);
addEventListener("resize", () => { if (newer.hidden) log.scrollTop = log.scrollHeight; });
document.addEventListener("visibilitychange", () => { if (!document.hidden) connectNow(); });
who.open = innerWidth > 704; // beside the messages, not above them
for (const r of ["lobby", "cats", "dogs"]) rooms.append(new Option(r));
enter();
