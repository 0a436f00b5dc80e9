package main

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// units names all metrics.
var units = [metrics]string{
	cpu:    "CPU µs",
	rate:   "messages/s",
	p50:    "p50 µs",
	p99:    "p99 µs",
	allocs: "allocations",
	size:   "bytes allocated",
	writes: "writes",
	wire:   "bytes sent",
	memory: "resident bytes",
	heap:   "heap bytes",
	stack:  "stack bytes",
}

// metric returns the one by which libraries are compared. Less is better.
func (w work) metric() metric {
	if w.Kind == idle {
		return memory
	}
	return cpu
}

// columns returns what the table of w shows.
func (w work) columns() []metric {
	switch {
	case w.Kind == idle:
		return []metric{memory, heap, stack}
	case w.Deflate:
		return []metric{cpu, rate, p50, p99, allocs, size, writes, wire}
	}
	return []metric{cpu, rate, p50, p99, allocs, size, writes}
}

// per says what the numbers of w count for.
func (w work) per() string {
	switch {
	case w.Kind == idle:
		return "Memory of the server for each connection, after one message."
	case w.Kind == handshake:
		return fmt.Sprintf("Connections opened, %d at a time, and dropped. All for each of them.", w.Conns)
	case w.Kind == broadcast && w.InFlight > 1:
		return fmt.Sprintf("CPU, allocations and bytes for each message that a client gets, writes for each client in a burst of %d. Latency is that of the burst, until all clients have it.", w.InFlight)
	case w.Kind == broadcast:
		return "All for each message that a client gets, but latency until all clients have it."
	case w.InFlight > 1:
		return fmt.Sprintf("All for each message. Latency is that of %d that are sent together.", w.InFlight)
	}
	return "All for each message."
}

// median returns the median of a metric over all rounds, NaN if there are none.
func (r *result) median(m metric) float64 {
	var all []float64
	for _, s := range r.rounds {
		all = append(all, s[m])
	}
	if len(all) == 0 {
		return math.NaN()
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// ratio returns what r needs for one that other needs, by their medians.
func (r *result) ratio(other *result, m metric) float64 {
	if other == nil || other.median(m) <= 0 {
		return math.NaN()
	}
	return r.median(m) / other.median(m)
}

// best returns the result of the peer that needs least, or nil.
func (c *comparison) best() (best *result) {
	m := c.work.metric()
	for _, r := range c.results {
		if r.library.ours || r.library.module == "" || len(r.rounds) == 0 {
			continue
		}
		if best == nil || r.median(m) < best.median(m) {
			best = r
		}
	}
	return best
}

// raw returns the result of TCP alone, or nil.
func (c *comparison) raw() *result {
	for _, r := range c.results {
		if r.library.module == "" {
			return r
		}
	}
	return nil
}

// sorted returns the results, the one that needs least first, failures last.
func (c *comparison) sorted() []*result {
	m := c.work.metric()
	return slices.SortedStableFunc(slices.Values(c.results), func(a, b *result) int {
		x, y := a.median(m), b.median(m)
		if math.IsNaN(x) || math.IsNaN(y) {
			return -cmp.Compare(x, y) // a NaN is less than any number
		}
		return cmp.Compare(x, y)
	})
}

// number formats x with three digits or more.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case math.Abs(x) < 0.0005:
		return "0"
	case math.Abs(x) >= 100:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	case math.Abs(x) >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

func factor(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return fmt.Sprintf("%.2f", x)
}

// markdown returns the report: where it was measured, a table of all works, and one for each.
func (p *plan) markdown(all []*comparison) string {
	var b strings.Builder
	b.WriteString("# Benchmark\n\n")
	fmt.Fprintf(&b, "- %s\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	fmt.Fprintf(&b, "- %s, %s/%s, %d processors\n", machine(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	fmt.Fprintf(&b, "- %s\n", runtime.Version())
	if p.at.server >= 0 {
		fmt.Fprintf(&b, "- server on processor %d, load on processor %d\n", p.at.server, p.at.load)
	}
	for _, remark := range p.remarks {
		fmt.Fprintf(&b, "- %s\n", remark)
	}
	if p.rounds > 1 {
		fmt.Fprintf(&b, "- medians of %d rounds\n", p.rounds)
	} else {
		b.WriteString("- one round\n")
	}
	b.WriteString("\n")
	b.WriteString("| library | version | how |\n|---|---|---|\n")
	for _, l := range p.libraries {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.title(), version(l.module), l.about)
	}
	b.WriteString("\n")
	p.overview(&b, all)
	for _, c := range all {
		c.table(&b)
	}
	return b.String()
}

// title returns the name of l, in bold if it is ours.
func (l library) title() string {
	if l.ours {
		return "**" + l.name + "**"
	}
	return l.name
}

// overview writes a table with a row for each work and a column for each library.
func (p *plan) overview(b *strings.Builder, all []*comparison) {
	b.WriteString("## Overview\n\nProcessor time of the server, in µs a message, or for idle connections resident bytes of each.\n")
	b.WriteString("The last column is the best of ours by the best of others.\n\n| work |")
	for _, l := range p.libraries {
		fmt.Fprintf(b, " %s |", l.title())
	}
	b.WriteString(" ours / best |\n|---|" + strings.Repeat("--:|", len(p.libraries)+1) + "\n")
	for _, c := range all {
		fmt.Fprintf(b, "| %s |", c.work)
		m, best := c.work.metric(), c.best()
		least := math.NaN()
		for _, l := range p.libraries {
			i := slices.IndexFunc(c.results, func(r *result) bool { return r.library.name == l.name })
			if i < 0 {
				b.WriteString(" |")
				continue
			}
			r := c.results[i]
			fmt.Fprintf(b, " %s |", number(r.median(m)))
			if x := r.ratio(best, m); l.ours && !(x >= least) && !math.IsNaN(x) {
				least = x
			}
		}
		fmt.Fprintf(b, " %s |\n", factor(least))
	}
	b.WriteString("\n")
}

// table writes all numbers of one work.
func (c *comparison) table(b *strings.Builder) {
	w := c.work
	name := w.String()
	fmt.Fprintf(b, "## %s\n\n%s\n\n", strings.ToUpper(name[:1])+name[1:], w.per())
	columns := w.columns()
	fmt.Fprintf(b, "| library | %s | to best other | to raw TCP |", units[columns[0]])
	for _, m := range columns[1:] {
		fmt.Fprintf(b, " %s |", units[m])
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)+2) + "\n")
	best, raw := c.best(), c.raw()
	for _, r := range c.sorted() {
		fmt.Fprintf(b, "| %s |", r.library.title())
		if len(r.rounds) == 0 {
			if r.err != nil {
				fmt.Fprintf(b, " %s |\n", strings.NewReplacer("\n", " ", "|", "/").Replace(r.err.Error()))
			} else {
				b.WriteString(" not measured |\n")
			}
			continue
		}
		m := columns[0]
		fmt.Fprintf(b, " %s | %s | %s |", number(r.median(m)), factor(r.ratio(best, m)), factor(r.ratio(raw, m)))
		for _, m := range columns[1:] {
			x := r.median(m)
			if m == writes && w.Kind == broadcast {
				x *= float64(w.InFlight)
			}
			fmt.Fprintf(b, " %s |", number(x))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// version returns the version of a module in this program.
func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if module == ourModule {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
		return "this repository"
	}
	for _, m := range info.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	return "–"
}
