package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
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
			work{Kind: sparse, Size: 100, Conns: 120, InFlight: 1},
			work{Kind: sparse, Size: 100, Conns: 300, InFlight: 1},
			work{Kind: handshake, Conns: 2, HTTP: true},
			work{Kind: handshake, Conns: 2})
	}
	p := plan{libraries: libraries, rounds: 1, output: "x"}
	if err := p.choosePins(""); err != nil {
		t.Fatal(err)
	}
	for _, w := range works {
		w.Duration, w.Rest, w.Main = 20*time.Millisecond, 20*time.Millisecond, true
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
				t.Errorf("%s, %s: %v", c.work, r.library, r.err)
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
	parseXML(t, chart(all))
	if testing.Short() {
		return
	}
	growth := plot(all)
	parseXML(t, growth)
	for _, l := range libraries {
		if got := strings.Count(growth, ">"+l.name+"</text>") == 2; got != l.crowds {
			t.Errorf("%s has a line for processor time and one for memory: %t, want %t", l.name, got, l.crowds)
		}
	}
}

func parseXML(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, text)
		}
	}
}

// checkSample checks that s can be right.
func checkSample(t *testing.T, w work, l library, s sample) {
	t.Helper()
	between := func(m metric, low, high float64) {
		t.Helper()
		if !(s[m] >= low && s[m] <= high) {
			t.Errorf("%s, %s: %s is %g, want %g to %g", w, l, units[m], s[m], low, high)
		}
	}
	if w.Kind == idle || w.Kind == sparse {
		between(heap, 0, 100<<10)
		between(stack, 0, 100<<10)
		if canMeasure {
			between(memory, 1, 1<<20)
		}
	}
	if canMeasure {
		between(cpu, 0.01, 1e5)
		between(writes, 0.05, 20)
	}
	between(allocs, 0, 1000)
	between(size, 0, 1<<22)
	between(p50, 0.1, s[p99])
	if w.Kind == idle {
		return
	}
	between(rate, 1, 1e8)
	if (w.Kind == echo || w.Kind == sparse) && !w.Deflate && s[wire] != float64(w.Size) {
		t.Errorf("%s, %s: %g bytes of %d come back", w, l, s[wire], w.Size)
	}
	if w.Deflate {
		between(wire, 100, float64(w.Size)/2)
	}
}

// Another build is measured beside this one, and the report compares them.
func TestBefore(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	b, err := buildWith(t.Context(), "../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := plan{
		works:     []work{{Kind: echo, Size: 10, Conns: 1, InFlight: 1, Duration: 20 * time.Millisecond}},
		libraries: []library{libraries[0], libraries[len(libraries)-1]},
		rounds:    2,
		before:    "../..",
		at:        pins{-1, -1},
	}
	p.addBuild(b)
	all, err := p.measure(t.Context())
	if err != nil || len(all) != 1 || len(all[0].results) != 3 {
		t.Fatalf("%d works, want one with 3 results: %v", len(all), err)
	}
	for _, r := range all[0].results {
		if len(r.rounds) != 2 {
			t.Errorf("%s: %d rounds, want 2: %v", r.library, len(r.rounds), r.err)
		}
	}
	p.noise = math.Inf(1)
	if report := p.markdown(all); !strings.Contains(report, "| **server@before** | "+b.version+" |") || !strings.Contains(report, "## Before and after") {
		t.Errorf("the report does not compare the builds:\n%s", report)
	}
}

// A checkout that cannot be built is an error that says why.
func TestBeforeFails(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := buildWith(t.Context(), missing, t.TempDir()); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a checkout that does not exist: %v", err)
	}
}

// In every round both builds of a library are next to each other. Each is first in turn.
func TestOrder(t *testing.T) {
	before := &result{library: library{name: "a", build: new(build)}}
	c := comparison{results: []*result{
		{library: library{name: "a"}, before: before}, before, {library: library{name: "b"}}, {library: library{name: "c"}},
	}}
	for round, want := range []string{"a@before a b c", "b c a a@before", "c a@before a b", "a a@before b c"} {
		var names []string
		for _, r := range c.order(round) {
			names = append(names, r.library.String())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
	}
}

// Builds are compared within a round, and only in rounds that both have.
func TestChanges(t *testing.T) {
	before := &result{rounds: map[int]sample{0: {cpu: 10}, 1: {cpu: 20}, 2: {cpu: 40}, 3: {cpu: 1}}}
	r := &result{before: before, rounds: map[int]sample{0: {cpu: 11, allocs: 1}, 1: {cpu: 18}, 2: {cpu: 80}}}
	if got, want := r.changes(cpu), []float64{0.9, 1.1, 2}; !slices.Equal(got, want) {
		t.Errorf("changes are %v, want %v", got, want)
	}
	if got := r.changes(allocs); len(got) > 0 {
		t.Errorf("changes from nothing are %v, want none", got)
	}
}

// A work is too noisy if raw TCP says so, in three rounds or more.
func TestNoise(t *testing.T) {
	raw := libraries[slices.IndexFunc(libraries, library.gauges)]
	with := func(name kind, values ...float64) *comparison {
		c := &comparison{work: work{Kind: name}}
		r := &result{library: raw, rounds: make(map[int]sample)}
		for round, x := range values {
			var s sample
			s[c.work.metric()] = x
			r.rounds[round] = s
		}
		c.results = []*result{{library: libraries[0]}, r}
		return c
	}
	p := plan{noise: 15}
	for _, test := range []struct {
		c     *comparison
		noise float64
		quiet bool
	}{
		{with(echo, 105, 95, 100), 10, true},
		{with(echo, 110, 94, 100), 16, false},
		{with(idle, 5000, 8000, 4000, 5000), 80, false},
		{with(echo, 1, 9), math.NaN(), true},
		{with(echo, 0, 0, 0), math.NaN(), true},
		{with(echo), math.NaN(), true},
		{&comparison{}, math.NaN(), true},
	} {
		noise := test.c.noise()
		if noise != test.noise && !(math.IsNaN(noise) && math.IsNaN(test.noise)) {
			t.Errorf("%s: the noise is %g, want %g", test.c.work, noise, test.noise)
		}
		if got := len(p.quiet([]*comparison{test.c})) == 1; got != test.quiet {
			t.Errorf("%s: with a noise of %g it is quiet: %t, want %t", test.c.work, noise, got, test.quiet)
		}
	}

	quiet, noisy := with(echo, 1, 1, 1), with(idle, 1111, 2222, 3333)
	report := p.markdown([]*comparison{quiet, noisy})
	if !strings.Contains(report, "too noisy for figures") || strings.Contains(report, "2222") {
		t.Errorf("the report has figures of a work that was too noisy:\n%s", report)
	}
}

// The more connections there are, the fewer libraries are measured with them.
func TestCan(t *testing.T) {
	for _, test := range []struct {
		w    work
		want string
	}{
		{work{Kind: idle, Conns: 20_000, HTTP: true}, "server append gorilla coder gws gobwas raw"},
		{work{Kind: idle, Conns: 20_000}, "server frame gws gobwas fasthttp nbio raw"},
		{work{Kind: idle, Conns: 100_000, HTTP: true}, "server gorilla gws gobwas raw"},
		{work{Kind: idle, Conns: 100_000}, "server gws gobwas nbio raw"},
		{work{Kind: sparse, Conns: 100}, "server gorilla gws gobwas nbio raw"},
	} {
		var names []string
		for _, l := range libraries {
			if l.can(test.w) {
				names = append(names, l.name)
			}
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%s: %s, want %s", test.w, got, test.want)
		}
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
	p, err = parse([]string{"-libs", "gws"})
	if err != nil || len(p.libraries) != 2 || p.libraries[1].name != "raw" {
		t.Errorf("%d libraries, want raw as well: %v", len(p.libraries), err)
	}
	p, err = parse([]string{"-libs", "gws", "-rounds", "2"})
	if err != nil || len(p.libraries) != 1 || len(p.remarks) == 0 {
		t.Errorf("%d libraries in 2 rounds, want one, and a remark: %v", len(p.libraries), err)
	}
	p, err = parse([]string{"-idle", "10,1234"})
	if err != nil || len(p.works) != 6 || p.works[0].Rest != restTime || p.works[5].String() != "sparse, 128 B, 13 of 1234 connections active" {
		t.Errorf("-idle: %v, %v", p.works, err)
	}
	p, err = parse([]string{"-idle", "10", "-conns", "1"})
	if err != nil || len(p.works) != 15+3 {
		t.Errorf("-idle with -conns: %d works, %v", len(p.works), err)
	}
	for _, args := range []string{"-noise -1", "-idle 0", "-idle x", "-noise NaN", "-libs nobody", "-libs raw -before x", "-sizes 0", "-run (", "-cpus x", "-d 2h", "more"} {
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
