// Cluster is the chat of examples/chat, with rooms, on any number of processes that NATS joins:
// a NATS server embedded in each of them, or one that runs elsewhere.
package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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

const (
	beat              = 500 * time.Millisecond // between two signs of life of a node
	silence, maxNames = 4, 100                 // beats without one until a node is lost; and clients of a room that it names
)

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
	p, _ := json.Marshal(e) // all of it can be JSON
	return p
}

// A node is one process of the cluster.
type node struct {
	websocket.Server
	id   string
	nats *nats.Conn

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

// newNode joins the cluster at a NATS server.
func newNode(natsURL string) *node {
	n := &node{id: rand.Text()[:6], rooms: map[string]*room{}, nodes: map[string]string{}, missed: map[string]int{}}
	n.Options = websocket.Options{MaxMessage: 4 << 10, Origins: []string{"http://localhost:*", "http://127.0.0.1:*"}}
	var err error
	n.nats, err = nats.Connect(natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(beat/2),
		nats.ReconnectBufSize(-1), // what cannot be said now is not said later
		nats.DisconnectErrHandler(func(*nats.Conn, error) { n.setNode(n.id, "") }),
		nats.ReconnectHandler(func(*nats.Conn) { n.leave() })) // the others tell who is there when it is back
	check(err)
	n.nats.Subscribe("chat.node.*", func(m *nats.Msg) { n.setNode(m.Subject[len("chat.node."):], string(m.Data)) })
	n.nats.Subscribe("chat.who", func(m *nats.Msg) {
		n.mu.Lock()
		defer n.mu.Unlock()
		m.Respond(n.here(string(m.Data)))
	})
	return n
}

// live gives signs of life, looks for nodes that give none any more, and tells what has changed here.
func (n *node) live(url string) {
	for ; ; time.Sleep(beat) {
		n.nats.Publish("chat.node."+n.id, []byte(url))
		n.mu.Lock()
		for id := range n.nodes {
			if n.missed[id]++; n.missed[id] > silence {
				go n.setNode(id, "")
			}
		}
		for name, r := range n.rooms {
			r.changed = r.changed && n.nats.Publish("chat.room."+name, n.here(name)) != nil
		}
		n.mu.Unlock()
	}
}

// leave tells the others at once what they would notice later.
func (n *node) leave() error {
	n.nats.Publish("chat.node."+n.id, nil)
	return n.nats.FlushTimeout(beat)
}

// setNode notes the URL of a node that lives, or none of one that does not. One that has come, or
// come back, is to hear who is here.
func (n *node) setNode(id, url string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.missed[id] = 0; n.nodes[id] == url {
		return
	}
	if n.nodes[id] = url; url == "" {
		delete(n.nodes, id)
		delete(n.missed, id)
	}
	for _, r := range n.rooms {
		r.changed = true
	}
	n.Broadcast(websocket.Text, event{Type: "nodes", Node: n.id, Nodes: n.nodes}.json())
}

// here tells who is in a room on this node. mu is held.
func (n *node) here(name string) []byte {
	e := event{Type: "here", Node: n.id}
	if r := n.rooms[name]; r != nil {
		e.N, e.Count, e.Names = r.said, len(r.conns), r.names[:min(len(r.names), maxNames)]
	}
	return e.json()
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
		OnOpen:    func(c *websocket.Conn) { n.enter(c, in, name) },
		OnMessage: func(_ *websocket.Conn, _ websocket.MessageType, p []byte) { n.say(in, name, string(p)) },
		OnClose:   func(c *websocket.Conn, _ error) { n.exit(c, in) },
	})
}

// enter has all nodes tell who is in the room. NATS keeps the order: a node that has been asked
// reaches this one with what is said there later. So when all have answered, the client is welcome,
// and misses nothing from then on. What is said meanwhile waits in the Server until enter returns.
func (n *node) enter(c *websocket.Conn, in, name string) {
	n.mu.Lock()
	r := n.rooms[in]
	if r == nil {
		r = new(room)
		r.sub, _ = n.nats.Subscribe("chat.room."+in, func(m *nats.Msg) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.Send(websocket.Text, m.Data, r.conns...)
		})
		n.rooms[in] = r
	}
	r.conns, r.names, r.changed = append(r.conns, c), append(r.names, name), true
	nodes := maps.Clone(n.nodes)
	n.mu.Unlock()

	c.WriteMessage(websocket.Text, event{Type: "nodes", Node: n.id, Nodes: nodes}.json())
	answers, _ := n.nats.SubscribeSync(n.nats.NewInbox())
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
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.rooms[in]
	if n.nats.Publish("chat.room."+in, event{Type: "said", Node: n.id, Name: name, Text: text, N: r.said + 1}.json()) == nil {
		r.said++
	}
}

func (n *node) exit(c *websocket.Conn, in string) {
	n.mu.Lock()
	defer n.mu.Unlock()
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
	o, err := server.ConfigureOptions(flag.NewFlagSet("", flag.ContinueOnError), args, nil, nil, nil)
	check(err)
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	check(err)
	if s.Start(); !s.ReadyForConnections(10 * time.Second) {
		log.Fatal("the embedded NATS server does not start")
	}
	return s.ClientURL()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// main serves until it is interrupted, and then says goodbye to clients and nodes.
func main() {
	addr := flag.String("addr", "localhost:12345", "the `address` to listen on")
	natsURL := flag.String("nats", "", "the `URL` of a NATS server to use, rather than an embedded one, whose own arguments follow --")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)

	l, err := net.Listen("tcp", *addr)
	check(err)
	if *natsURL == "" {
		*natsURL = startNATS()
	}
	n := newNode(*natsURL)
	go n.live("http://" + l.Addr().String())
	time.Sleep(2 * beat)      // in which the others give signs of life
	mux := http.NewServeMux() // not http.DefaultServeMux, where NATS shows profiles
	mux.HandleFunc("/chat", n.chat)
	mux.Handle("/", http.FileServerFS(page))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	fmt.Printf("Node %s listens on http://%s/\n", n.id, l.Addr())
	go web.Serve(l)

	<-ctx.Done()
	stop() // a second Ctrl-C does not wait
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	check(errors.Join(n.Shutdown(ctx), n.leave(), web.Shutdown(ctx)))
}
