// Cluster is the chat of examples/chat, with rooms, on any number of processes that NATS joins:
// a NATS server embedded in each of them, or one that runs elsewhere.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"flag"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/54eee7d7/websocket"
)

const beat = 500 * time.Millisecond // between two signs of life of a node

//go:embed index.html chat.css chat.js
var page embed.FS

// An event is what nodes tell their clients and, through NATS, each other.
type event struct {
	Type             string            // nodes, here, said or welcome
	Node, Name, Text string            `json:",omitempty"` // where who says what
	N, Count         int               `json:",omitempty"` // messages so far from the node to the room, and clients in it
	Names            []string          `json:",omitempty"` // of the first of these
	Nodes            map[string]string `json:",omitempty"` // URLs; while NATS is away, Node is not among them
}

func (e event) json() []byte {
	return must(json.Marshal(e)) // all of it can be JSON
}

// A node is one process of the cluster. Its methods live, setNode, here, say and exit are called
// with mu held.
type node struct {
	websocket.Server
	id, url string
	nats    *nats.Conn

	mu     sync.Mutex
	rooms  map[string]*room
	nodes  map[string]string // URLs of those that live; this one does while NATS is there
	missed map[string]int    // beats of these
}

// A room has clients here, and so a subscription.
type room struct {
	sub     *nats.Subscription
	conns   []*websocket.Conn
	names   []string // of conns
	said    int      // messages from here
	changed bool     // since the others were told who is here
}

// newNode joins the cluster at a NATS server. The node's signs of life have its URL. One without says
// that it leaves, or was away from NATS, so that the others take it for new when it is back.
func newNode(natsURL, url string) *node {
	n := &node{id: rand.Text()[:6], url: url, rooms: map[string]*room{}, nodes: map[string]string{}, missed: map[string]int{}}
	n.Options = websocket.Options{MaxMessage: 4 << 10, Origins: []string{"http://localhost:*", "http://127.0.0.1:*"}}
	n.nats = must(nats.Connect(natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(beat/2),
		nats.ReconnectBufSize(-1), // what cannot be said now is not said later
		nats.DisconnectErrHandler(func(*nats.Conn, error) { n.locked(func() { n.setNode(n.id, "") }) }),
		nats.ReconnectHandler(func(c *nats.Conn) { c.Publish("chat.node."+n.id, nil) })))
	n.on("chat.node.*", func(m *nats.Msg) { n.setNode(m.Subject[len("chat.node."):], string(m.Data)) })
	n.on("chat.who", func(m *nats.Msg) { m.Respond(n.here(string(m.Data))) })
	n.locked(n.live)
	return n
}

// locked calls f with mu held.
func (n *node) locked(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// on has f called, with mu held, for each message about a subject.
func (n *node) on(subject string, f func(*nats.Msg)) *nats.Subscription {
	return must(n.nats.Subscribe(subject, func(m *nats.Msg) { n.locked(func() { f(m) }) }))
}

// live gives a sign of life, drops the nodes that have given none for more than four beats, and
// tells what has changed here. It does so again after a beat.
func (n *node) live() {
	n.nats.Publish("chat.node."+n.id, []byte(n.url))
	for id := range n.nodes {
		if n.missed[id]++; n.missed[id] > 4 {
			n.setNode(id, "")
		}
	}
	for name, r := range n.rooms {
		r.changed = r.changed && n.nats.Publish("chat.room."+name, n.here(name)) != nil
	}
	time.AfterFunc(beat, func() { n.locked(n.live) })
}

// setNode notes the URL of a node that lives, or none of one that does not. One that has come, or
// come back, is to hear who is here.
func (n *node) setNode(id, url string) {
	delete(n.missed, id)
	if n.nodes[id] == url {
		return
	}
	if n.nodes[id] = url; url == "" {
		delete(n.nodes, id)
	}
	for _, r := range n.rooms {
		r.changed = true
	}
	n.Broadcast(websocket.Text, event{Type: "nodes", Node: n.id, Nodes: n.nodes}.json())
}

// here tells who is in a room on this node: how many, and the names of the first of them.
func (n *node) here(name string) []byte {
	r := cmp.Or(n.rooms[name], new(room))
	return event{Type: "here", Node: n.id, N: r.said, Count: len(r.names), Names: r.names[:min(len(r.names), 100)]}.json()
}

var isRoom = regexp.MustCompile(`^[a-z0-9-]{1,30}$`).MatchString

// chat serves a client, with a request such as /chat?room=cats&name=Tom.
func (n *node) chat(w http.ResponseWriter, req *http.Request) {
	in, name := req.FormValue("room"), req.FormValue("name")
	if !isRoom(in) || name == "" || len(name) > 60 {
		http.Error(w, "a room has up to 30 of a to z, 0 to 9 and -; a name has up to 60 bytes", http.StatusBadRequest)
		return
	}
	n.ServeHTTPWith(w, req, websocket.Handler{
		OnOpen: func(c *websocket.Conn) { n.enter(c, in, name) },
		OnMessage: func(_ *websocket.Conn, _ websocket.MessageType, p []byte) {
			n.locked(func() { n.say(in, name, string(p)) })
		},
		OnClose: func(c *websocket.Conn, _ error) { n.locked(func() { n.exit(c, in) }) },
	})
}

// enter has all nodes tell who is in the room. NATS keeps the order: a node that has been asked
// reaches this one with what is said there later. So when all have answered, the client is welcome,
// and misses nothing from then on. What is said meanwhile waits in the Server until enter returns.
func (n *node) enter(c *websocket.Conn, in, name string) {
	n.mu.Lock()
	r := cmp.Or(n.rooms[in], new(room))
	if r.sub == nil {
		r.sub = n.on("chat.room."+in, func(m *nats.Msg) { n.Send(websocket.Text, m.Data, r.conns...) })
	}
	n.rooms[in] = r
	r.conns, r.names, r.changed = append(r.conns, c), append(r.names, name), true
	nodes := maps.Clone(n.nodes)
	n.mu.Unlock()

	c.WriteMessage(websocket.Text, event{Type: "nodes", Node: n.id, Nodes: nodes}.json())
	answers := must(n.nats.SubscribeSync(n.nats.NewInbox()))
	defer answers.Unsubscribe()
	n.nats.PublishRequest("chat.who", answers.Subject, []byte(in))
	for end := time.Now().Add(beat); len(nodes) > 0; {
		m, err := answers.NextMsg(time.Until(end))
		if err != nil {
			break // a node has just died
		}
		var e event
		json.Unmarshal(m.Data, &e)
		delete(nodes, e.Node)
		c.WriteMessage(websocket.Text, m.Data)
	}
	c.WriteMessage(websocket.Text, event{Type: "welcome", Node: n.id}.json())
}

// say passes on what a client says, through NATS to those of this node, too.
func (n *node) say(in, name, text string) {
	r := n.rooms[in]
	if n.nats.Publish("chat.room."+in, event{Type: "said", Node: n.id, Name: name, Text: text, N: r.said + 1}.json()) == nil {
		r.said++
	}
}

// exit takes a client out of its room. A room without clients here ends, which the others hear at once.
func (n *node) exit(c *websocket.Conn, in string) {
	r := n.rooms[in]
	i := slices.Index(r.conns, c)
	r.conns, r.names, r.changed = slices.Delete(r.conns, i, i+1), slices.Delete(r.names, i, i+1), true
	if len(r.conns) == 0 {
		delete(n.rooms, in)
		r.sub.Unsubscribe()
		n.nats.Publish("chat.room."+in, n.here(in))
	}
}

// startNATS starts a NATS server for this process and returns its URL. It has its own arguments
// behind those of the program.
func startNATS() string {
	args := append([]string{"-a", "127.0.0.1", "-p", "-1", "-cluster_name", "chat"}, flag.Args()...)
	o := must(server.ConfigureOptions(flag.NewFlagSet("", flag.ContinueOnError), args, nil, nil, nil))
	o.NoSigs, o.NoLog = true, true
	s := must(server.NewServer(o))
	if s.Start(); !s.ReadyForConnections(10 * time.Second) {
		log.Fatal("the embedded NATS server does not start")
	}
	return s.ClientURL()
}

// must returns v, unless there is an error, which ends the program.
func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

// main serves until it is interrupted, and then says goodbye to clients and nodes.
func main() {
	addr := flag.String("addr", "localhost:12345", "the `address` to listen on")
	natsURL := flag.String("nats", "", "the `URL` of a NATS server to use, rather than an embedded one, whose own arguments follow --")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)

	l := must(net.Listen("tcp", *addr))
	if *natsURL == "" {
		*natsURL = startNATS()
	}
	n := newNode(*natsURL, "http://"+l.Addr().String())
	time.Sleep(2 * beat)      // in which the others give signs of life
	mux := http.NewServeMux() // not http.DefaultServeMux, where NATS shows profiles
	mux.HandleFunc("/chat", n.chat)
	mux.Handle("/", http.FileServerFS(page))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	log.Printf("Node %s listens on %s/", n.id, n.url)
	go web.Serve(l)

	<-ctx.Done()
	stop() // a second Ctrl-C does not wait
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := n.Shutdown(ctx)
	n.mu.Lock() // no sign of life follows this one
	n.nats.Publish("chat.node."+n.id, nil)
	if err = cmp.Or(err, n.nats.FlushTimeout(beat), web.Shutdown(ctx)); err != nil {
		log.Fatal(err)
	}
}
