package main

import (
	"fmt"
	"time"
)

// A kind is what a work has the server do.
type kind string

const (
	echo      kind = "echo"
	broadcast kind = "broadcast"
	idle      kind = "idle"
	handshake kind = "handshake"
)

// A work is one thing that is measured, with each library that can do it.
type work struct {
	Kind     kind
	Size     int           // payload of a message, in bytes
	Conns    int           // connections, or for handshakes how many are made at a time
	InFlight int           // messages that a client sends at once, or broadcasts in a burst
	TLS      bool          // over TLS 1.3
	Deflate  bool          // with permessage-deflate, without context takeover
	HTTP     bool          // the server has to use net/http; for idle and handshake only
	Main     bool          // the work is in the chart
	Duration time.Duration // how long it is measured for
}

// String returns the name of w, to which the flag -run refers.
func (w work) String() string {
	via := "raw listener"
	if w.HTTP {
		via = "net/http"
	}
	switch w.Kind {
	case handshake:
		return fmt.Sprintf("handshake, %s", via)
	case idle:
		return fmt.Sprintf("idle, %s, %s", via, connections(w.Conns))
	case broadcast:
		if w.InFlight > 1 {
			return fmt.Sprintf("broadcast, burst of %d, %s, %s", w.InFlight, bytesName(w.Size), connections(w.Conns))
		}
		return fmt.Sprintf("broadcast, %s, %s", bytesName(w.Size), connections(w.Conns))
	}
	name := "echo"
	if w.TLS {
		name += " with TLS"
	}
	if w.Deflate {
		name += " with deflate"
	}
	return fmt.Sprintf("%s, %s, %s, %d in flight", name, bytesName(w.Size), connections(w.Conns), w.InFlight)
}

func connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

func bytesName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// standardWorks are measured unless flags ask for others.
func standardWorks() []work {
	return []work{
		{Kind: echo, Size: 128, Conns: 100, InFlight: 1, Main: true},
		{Kind: echo, Size: 128, Conns: 100, InFlight: 16, Main: true},
		{Kind: echo, Size: 128, Conns: 100, InFlight: 128},
		{Kind: echo, Size: 128, Conns: 1, InFlight: 1},
		{Kind: echo, Size: 128, Conns: 5000, InFlight: 1},
		{Kind: echo, Size: 16, Conns: 100, InFlight: 1},
		{Kind: echo, Size: 1 << 10, Conns: 100, InFlight: 1},
		{Kind: echo, Size: 1 << 10, Conns: 100, InFlight: 16},
		{Kind: echo, Size: 16 << 10, Conns: 100, InFlight: 1, Main: true},
		{Kind: echo, Size: 1 << 20, Conns: 1, InFlight: 1},
		{Kind: echo, Size: 128, Conns: 100, InFlight: 1, TLS: true, Main: true},
		{Kind: echo, Size: 128, Conns: 100, InFlight: 16, TLS: true},
		{Kind: echo, Size: 16 << 10, Conns: 100, InFlight: 1, TLS: true},
		{Kind: echo, Size: 1 << 10, Conns: 100, InFlight: 1, Deflate: true, Main: true},
		{Kind: echo, Size: 16 << 10, Conns: 100, InFlight: 1, Deflate: true},
		{Kind: broadcast, Size: 128, Conns: 1000, InFlight: 1, Main: true},
		{Kind: broadcast, Size: 128, Conns: 1000, InFlight: 10, Main: true},
		{Kind: idle, Size: 128, Conns: 5000, InFlight: 1, HTTP: true, Main: true},
		{Kind: idle, Size: 128, Conns: 5000, InFlight: 1},
		{Kind: handshake, Conns: 16, HTTP: true, Main: true},
		{Kind: handshake, Conns: 16, Main: true},
	}
}

// shortWorks are a few small ones, to see that all of it runs.
func shortWorks() []work {
	return []work{
		{Kind: echo, Size: 128, Conns: 10, InFlight: 1, Main: true},
		{Kind: echo, Size: 128, Conns: 10, InFlight: 16, Main: true},
		{Kind: echo, Size: 16 << 10, Conns: 10, InFlight: 16, Main: true},
		{Kind: echo, Size: 128, Conns: 10, InFlight: 1, TLS: true, Main: true},
		{Kind: echo, Size: 1 << 10, Conns: 10, InFlight: 1, Deflate: true, Main: true},
		{Kind: broadcast, Size: 128, Conns: 100, InFlight: 1, Main: true},
		{Kind: broadcast, Size: 128, Conns: 100, InFlight: 10, Main: true},
		{Kind: idle, Size: 128, Conns: 500, InFlight: 1, HTTP: true, Main: true},
		{Kind: idle, Size: 128, Conns: 500, InFlight: 1},
		{Kind: handshake, Conns: 4, HTTP: true, Main: true},
		{Kind: handshake, Conns: 4, Main: true},
	}
}

// maxOnTheWay bounds what the clients of one work may have sent at once, as
// the server may have to hold all of it.
const maxOnTheWay = 256 << 20

// echoWorks returns an echo for all combinations of the arguments that are possible.
func echoWorks(sizes, conns, inFlight []int) (works []work) {
	for _, size := range sizes {
		for _, c := range conns {
			for _, f := range inFlight {
				if size*c*f <= maxOnTheWay {
					works = append(works, work{Kind: echo, Size: size, Conns: c, InFlight: f, Main: true})
				}
			}
		}
	}
	return works
}
