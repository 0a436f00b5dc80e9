package main

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		least, most float64
		want        []float64
	}{
		{4, 61, []float64{2, 5, 10, 20, 50, 100}},
		{1111, 24000, []float64{1000, 2000, 5000, 10000, 20000, 50000}},
		{5, 5, []float64{5, 10}},
		{1, 10, []float64{1, 2, 5, 10}},
		{0.3, 0.4, []float64{0.2, 0.5}},
	} {
		got := ticks(test.least, test.most)
		if !slices.EqualFunc(got, test.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9*b }) {
			t.Errorf("from %g to %g: %v, want %v", test.least, test.most, got, test.want)
		}
	}
}

func TestScale(t *testing.T) {
	s := scale{least: 100, most: 10000, from: 60, to: 640}
	for x, want := range map[float64]float64{100: 60, 1000: 350, 10000: 640} {
		if got := s.at(x); math.Abs(got-want) > 1e-9 {
			t.Errorf("%g is at %g, want %g", x, got, want)
		}
	}
}

// Names do not cover each other.
func TestSpread(t *testing.T) {
	all := []*line{{end: 30}, {end: 10}, {end: 11}, {end: 60}, {end: 12}}
	spread(all, 14)
	var got []float64
	for _, l := range all {
		got = append(got, l.end)
	}
	if want := []float64{10, 24, 38, 52, 66}; !slices.Equal(got, want) {
		t.Errorf("the names are at %v, want %v", got, want)
	}
	spread(nil, 14)
}

// A library has one line, with gaps where it has no result. There is no picture of one point.
func TestPlot(t *testing.T) {
	with := func(conns int, cpus map[string]float64) *comparison {
		c := &comparison{work: work{Kind: sparse, Conns: conns}}
		for _, l := range libraries {
			if x, ok := cpus[l.name]; ok {
				r := &result{library: l, rounds: map[int]sample{}}
				if x > 0 {
					r.rounds[0] = sample{cpu: x, memory: 1000 * x}
				}
				c.results = append(c.results, r)
			}
		}
		return c
	}
	one := with(10_000, map[string]float64{"server": 3, "gws": 4, "raw": 2})
	two := with(100, map[string]float64{"server": 5, "gws": 0, "raw": 4})
	if got := plot([]*comparison{one, {work: work{Kind: echo}}}); got != "" {
		t.Errorf("one work yields a picture:\n%s", got)
	}
	got := plot([]*comparison{one, two})
	parseXML(t, got)
	for text, want := range map[string]int{
		`<polyline class="ours"`:  2,
		`<polyline class="limit"`: 2,
		`<polyline class="peer0"`: 2,
		`<polyline class="peer1"`: 0,
		">server</text>":          2,
		">10000</text>":           2,
		"NaN":                     0,
	} {
		if n := strings.Count(got, text); n != want {
			t.Errorf("the picture has %s %d times, want %d:\n%s", text, n, want, got)
		}
	}
	if got := plot([]*comparison{with(1, nil), with(2, nil)}); strings.Contains(got, "<polyline") {
		t.Errorf("there are lines of nothing:\n%s", got)
	}
}
