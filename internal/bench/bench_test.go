package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// The test's program is also that of the processes that the test starts.
func TestMain(m *testing.M) {
	if roleMain() {
		return
	}
	os.Exit(m.Run())
}

// Every library does every kind of work, and the numbers are possible ones.
func TestMeasure(t *testing.T) {
	works := []work{{Kind: echo, Size: 200, Conns: 3, InFlight: 4}}
	if !testing.Short() {
		works = append(works,
			work{Kind: echo, Size: 100 << 10, Conns: 2, InFlight: 2},
			work{Kind: echo, Size: 200, Conns: 2, InFlight: 1, TLS: true},
			work{Kind: echo, Size: 2000, Conns: 2, InFlight: 1, Deflate: true},
			work{Kind: broadcast, Size: 100, Conns: 5, InFlight: 3},
			work{Kind: idle, Size: 100, Conns: 100, InFlight: 1, HTTP: true},
			work{Kind: idle, Size: 100, Conns: 100, InFlight: 1},
			work{Kind: handshake, Conns: 2, HTTP: true},
			work{Kind: handshake, Conns: 2})
	}
	p := plan{libraries: libraries, rounds: 1, output: "x"}
	if err := p.choosePins(""); err != nil {
		t.Fatal(err)
	}
	for _, w := range works {
		w.Duration, w.Main = 20*time.Millisecond, true
		p.works = append(p.works, w)
	}
	all, err := p.measure(t.Context())
	if err != nil {
		t.Error(err)
	}
	if len(all) != len(works) {
		t.Fatalf("%d works were measured, want %d", len(all), len(works))
	}
	for _, c := range all {
		for _, r := range c.results {
			if r.err != nil {
				t.Errorf("%s, %s: %v", c.work, r.library.name, r.err)
				continue
			}
			checkSample(t, c.work, r.library, r.rounds[0])
		}
	}

	table := p.markdown(all)
	for _, c := range all {
		if !strings.Contains(table, "| "+c.work.String()+" |") {
			t.Errorf("the report lacks %s", c.work)
		}
	}
	d := xml.NewDecoder(strings.NewReader(chart(all)))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the chart is not XML: %v", err)
		}
	}
}

// checkSample checks that s can be right.
func checkSample(t *testing.T, w work, l library, s sample) {
	t.Helper()
	between := func(m metric, low, high float64) {
		t.Helper()
		if !(s[m] >= low && s[m] <= high) {
			t.Errorf("%s, %s: %s is %g, want %g to %g", w, l.name, units[m], s[m], low, high)
		}
	}
	if w.Kind == idle {
		between(heap, 0, 100<<10)
		between(stack, 0, 100<<10)
		return
	}
	if canMeasure {
		between(cpu, 0.01, 1e5)
		between(writes, 0.05, 20)
	}
	between(rate, 1, 1e8)
	between(allocs, 0, 1000)
	between(size, 0, 1<<22)
	between(p50, 0.1, s[p99])
	if w.Kind == echo && !w.Deflate && s[wire] != float64(w.Size) {
		t.Errorf("%s, %s: %g bytes of %d come back", w, l.name, s[wire], w.Size)
	}
	if w.Deflate {
		between(wire, 100, float64(w.Size)/2)
	}
}

// A failure of the server is in the error.
func TestMeasureFails(t *testing.T) {
	w := work{Kind: echo, Size: 10, Conns: 1, InFlight: 1}
	if _, err := measure(t.Context(), library{name: "nobody"}, w, pins{-1, -1}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("an unknown library: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measure(ctx, libraries[0], w, pins{-1, -1}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestFlags(t *testing.T) {
	p, err := parse([]string{"-all"})
	if err != nil || len(p.works) < 30 || len(p.libraries) != len(libraries) {
		t.Errorf("-all: %d works, %v", len(p.works), err)
	}
	p, err = parse([]string{"-sizes", "1,2", "-run", "1 B", "-libs", "raw,gws", "-rounds", "7"})
	if err != nil || len(p.works) != 9 || len(p.libraries) != 2 || p.rounds != 7 {
		t.Errorf("%d works, %d libraries, %d rounds, %v", len(p.works), len(p.libraries), p.rounds, err)
	}
	for _, args := range []string{"-libs nobody", "-sizes 0", "-run (", "-cpus x", "-d 2h", "more"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 100000 {
		h.add(time.Duration(i))
	}
	for _, q := range []float64{0, 0.01, 0.5, 0.99} {
		want := q * 100000
		if got := float64(h.quantile(q)); got < 0.96*want || got > 1.04*want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	h.add(1<<63 - 1) // has a class, too
}

func TestReadMessage(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		p := payload(n)
		stream := append([]byte{0x89, 1, 'x'}, serverFrame(p)...) // a ping comes first
		stream = append(stream, clientFrame(p, finBinary)...)
		r := bufio.NewReader(bytes.NewReader(stream))
		var b bytes.Buffer
		first, size, err := readMessage(r, &b)
		if first != finBinary || size != n || err != nil || !bytes.Equal(b.Bytes(), p) {
			t.Errorf("%d bytes: %#x, %d, %v", n, first, size, err)
		}
		if _, size, err = readMessage(r, nil); size != n || err != nil || r.Buffered() > 0 {
			t.Errorf("%d bytes with a mask: %d, %v", n, size, err)
		}
		c, err := deflated(p)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := inflated(c, n); err != nil || !bytes.Equal(back, p) {
			t.Errorf("%d bytes are not the same after compression: %v", n, err)
		}
	}
}
