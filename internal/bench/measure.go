package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"
)

// A metric is one of the numbers that a measurement yields.
type metric int

const (
	cpu     metric = iota // processor time of the server, in microseconds a message
	rate                  // messages a second
	p50                   // median latency, in microseconds
	p99                   // 99th percentile of it
	allocs                // allocations of the server a message
	size                  // bytes that it allocates a message
	writes                // its system calls that write, a message
	wire                  // payload bytes it sends a message
	memory                // resident bytes of the server a connection
	heap                  // bytes of its heap a connection
	stack                 // bytes of its stacks a connection
	metrics int    = iota
)

// A sample holds all metrics of one measurement. Those that a work does not have are 0.
type sample [metrics]float64

// pins are the processors for the server and for the load; negative means any.
type pins struct{ server, load int }

// measure has a library do a work once, in two processes of its own, which end when ctx
// is done.
func measure(ctx context.Context, l library, w work, at pins) (s sample, err error) {
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	path := self
	if l.build != nil {
		path = l.build.path
	}
	j := job{Role: "server", Library: l.name, Work: w}
	server, a, err := start(ctx, path, j, at.server)
	if err != nil {
		return s, err
	}
	defer server.stop()
	before, err := server.ask(question{Do: askMemory})
	if err != nil {
		return s, err
	}
	j.Role, j.Address = "load", a.Address
	load, _, err := start(ctx, self, j, at.load)
	if err != nil {
		return s, server.failure(err)
	}
	defer load.stop()

	switch w.Kind {
	case idle:
		err = s.idle(server, load, w, before.Usage)
	case sparse:
		err = s.sparse(server, load, w, before.Usage)
	case broadcast:
		err = s.broadcasts(server, load, w)
	default:
		err = s.messages(server, load, w)
	}
	if err != nil {
		return s, server.failure(err)
	}
	return s, nil
}

// messages measures echoes and handshakes.
func (s *sample) messages(server, load *process, w work) error {
	if _, err := load.ask(question{Do: askRun, Duration: w.Duration / 5}); err != nil {
		return err
	}
	before, err := server.ask(question{Do: askStart})
	if err != nil {
		return err
	}
	a, err := load.ask(question{Do: askRun, Duration: w.Duration})
	if err != nil {
		return err
	}
	if w.Kind == handshake {
		time.Sleep(50 * time.Millisecond) // for the ends of the last connections
	}
	after, err := server.ask(question{Do: askEnd})
	if err != nil {
		return err
	}
	n := float64(a.Counts.Messages)
	if n == 0 {
		return errors.New("no message has come back")
	}
	s.add(before.Usage, after.Usage, n)
	s[rate] = n / a.Counts.Elapsed.Seconds()
	s[p50], s[p99] = micros(a.Counts.P50), micros(a.Counts.P99)
	s[wire] = float64(a.Counts.Wire) / n
	return nil
}

// broadcasts measures broadcasts, or bursts of them, each of which has arrived at all
// clients when the next begins. A message is what one client gets.
func (s *sample) broadcasts(server, load *process, w work) error {
	sent := 0
	burst := func() (time.Duration, error) {
		begin := time.Now()
		if _, err := server.ask(question{Do: askMessage, N: w.InFlight}); err != nil {
			return 0, err
		}
		sent += w.InFlight
		_, err := load.ask(question{Do: askAwait, N: sent})
		return time.Since(begin), err
	}
	for begin := time.Now(); time.Since(begin) < w.Duration/5; {
		if _, err := burst(); err != nil {
			return err
		}
	}
	before, err := server.ask(question{Do: askStart})
	if err != nil {
		return err
	}
	sent0, begin := sent, time.Now()
	var times []time.Duration
	for len(times) < 3 || time.Since(begin) < w.Duration {
		d, err := burst()
		if err != nil {
			return err
		}
		times = append(times, d)
	}
	elapsed := time.Since(begin)
	after, err := server.ask(question{Do: askEnd})
	if err != nil {
		return err
	}
	n := float64((sent - sent0) * w.Conns)
	s.add(before.Usage, after.Usage, n)
	s[rate] = n / elapsed.Seconds()
	slices.Sort(times)
	s[p50], s[p99] = micros(times[len(times)/2]), micros(times[len(times)*99/100])
	return nil
}

// idle measures the memory of connections that have sent one message and got it back, and
// then one more message on each.
func (s *sample) idle(server, load *process, w work, before usage) error {
	time.Sleep(w.Rest)
	if err := s.connections(server, w, before); err != nil {
		return err
	}
	begin, err := server.ask(question{Do: askStart})
	if err != nil {
		return err
	}
	a, err := load.ask(question{Do: askTouch, N: 1})
	if err != nil {
		return err
	}
	end, err := server.ask(question{Do: askEnd})
	if err != nil {
		return err
	}
	s.add(begin.Usage, end.Usage, float64(a.Counts.Messages))
	s[p50], s[p99] = micros(a.Counts.P50), micros(a.Counts.P99)
	return nil
}

// sparse measures echoes on some connections, and the memory of all of them.
func (s *sample) sparse(server, load *process, w work, before usage) error {
	time.Sleep(w.Rest)
	if _, err := load.ask(question{Do: askTouch, N: w.step()}); err != nil {
		return err
	}
	if err := s.messages(server, load, w); err != nil {
		return err
	}
	if err := s.connections(server, w, before); err != nil {
		return err
	}
	_, err := load.ask(question{Do: askTouch, N: 1}) // whether all are still there
	return err
}

// connections measures the memory of all connections.
func (s *sample) connections(server *process, w work, before usage) error {
	a, err := server.ask(question{Do: askMemory})
	if err != nil {
		return err
	}
	n := float64(w.Conns)
	s[memory] = float64(a.Usage.Resident-before.Resident) / n
	s[heap] = float64(a.Usage.Heap-before.Heap) / n
	s[stack] = float64(a.Usage.Stack-before.Stack) / n
	return nil
}

// add notes what the server has used for n messages.
func (s *sample) add(before, after usage, n float64) {
	s[cpu] = micros(after.CPU-before.CPU) / n
	s[allocs] = float64(after.Allocs-before.Allocs) / n
	s[size] = float64(after.Bytes-before.Bytes) / n
	s[writes] = float64(after.Writes-before.Writes) / n
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
