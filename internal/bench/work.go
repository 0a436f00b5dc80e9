package main

import (
	"fmt"
	"net"
	"time"
)

// A kind is what a work has the server do.
type kind string

const (
	echo      kind = "echo"
	broadcast kind = "broadcast"
	idle      kind = "idle"
	handshake kind = "handshake"
	sparse    kind = "sparse" // echoes on one in a hundred connections; the others are idle
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
	Rest     time.Duration // how long idle connections are left alone before that
}

// idlePerActive is how many connections of a sparse work there are for one that is active.
const idlePerActive = 100

// step returns the distance between active clients, which are spread over all of them.
func (w work) step() int {
	if w.Kind == sparse {
		return idlePerActive
	}
	return 1
}

// active returns how many clients are active.
func (w work) active() int { return (w.Conns + w.step() - 1) / w.step() }

// rawListener reports whether the server must not use net/http.
func (w work) rawListener() bool { return !w.HTTP && (w.Kind == idle || w.Kind == handshake) }

// fileReserve is how many files a process has open apart from its connections, or less.
const fileReserve = 100

// connMemory is what a connection takes, or less: in the server, in the load, and in the kernel
// at both ends.
const connMemory = 32 << 10

// fits returns an error if this machine cannot have as many connections as w has.
func (w work) fits() error {
	if err := allowFiles(uint64(w.Conns) + fileReserve); err != nil {
		return err
	}
	if from := source(w.Conns - 1); from != nil {
		l, err := net.ListenTCP("tcp", from)
		if err != nil {
			return fmt.Errorf("the loopback interface has too few addresses: %w", err)
		}
		l.Close()
	}
	if need, free := int64(w.Conns)*connMemory, freeMemory(); free > 0 && free < need {
		return fmt.Errorf("%d MiB of memory are free, and it may need %d", free>>20, need>>20)
	}
	return nil
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
	case sparse:
		return fmt.Sprintf("sparse, %s, %d of %s active", bytesName(w.Size), w.active(), connections(w.Conns))
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
	works := []work{
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
		{Kind: handshake, Conns: 16, HTTP: true, Main: true},
		{Kind: handshake, Conns: 16, Main: true},
		{Kind: idle, Size: 128, Conns: 5000, InFlight: 1, HTTP: true, Main: true},
		{Kind: idle, Size: 128, Conns: 5000, InFlight: 1},
	}
	works = append(works, idleWorks(20_000, 100_000)...)
	return append(works, sparseWorks(100, 1000, 10_000, 50_000)...)
}

// idleWorks returns works with so many connections.
func idleWorks(conns ...int) (works []work) {
	for _, n := range conns {
		works = append(works,
			work{Kind: idle, Size: 128, Conns: n, InFlight: 1, HTTP: true},
			work{Kind: idle, Size: 128, Conns: n, InFlight: 1})
	}
	return works
}

// sparseWorks returns works with so many connections.
func sparseWorks(conns ...int) (works []work) {
	for _, n := range conns {
		works = append(works, work{Kind: sparse, Size: 128, Conns: n, InFlight: 1})
	}
	return works
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
		{Kind: sparse, Size: 128, Conns: 100, InFlight: 1},
		{Kind: sparse, Size: 128, Conns: 1000, InFlight: 1},
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
