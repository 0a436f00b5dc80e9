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
		return []metric{memory, heap, stack, cpu, p50, p99}
	case w.Kind == sparse:
		return []metric{cpu, memory, rate, p50, p99, allocs, size, writes}
	case w.Deflate:
		return []metric{cpu, rate, p50, p99, allocs, size, writes, wire}
	}
	return []metric{cpu, rate, p50, p99, allocs, size, writes}
}

// per says what the numbers of w count for.
func (w work) per() string {
	switch {
	case w.Kind == idle:
		return fmt.Sprintf("Memory of the server for each connection, after one message and %s of silence. CPU and latency are those of one more message on each, %d of them at a time.", w.Rest, atOnce)
	case w.Kind == sparse:
		return fmt.Sprintf("Memory of the server for each connection, the idle ones as well, which have been so for %s. All else for each message.", w.Rest)
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

// values returns a metric in all rounds, sorted.
func (r *result) values(m metric) []float64 {
	var all []float64
	for _, s := range r.rounds {
		all = append(all, s[m])
	}
	slices.Sort(all)
	return all
}

// median returns the median of a metric over all rounds, NaN if there are none.
func (r *result) median(m metric) float64 { return middle(r.values(m)) }

// middle returns the median of sorted numbers, NaN if there are none.
func middle(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratio returns what r needs for one that other needs, by their medians.
func (r *result) ratio(other *result, m metric) float64 {
	if other == nil || other.median(m) <= 0 {
		return math.NaN()
	}
	return r.median(m) / other.median(m)
}

// tooFew is less than one in a hundred messages. So few allocations are those of the runtime.
const tooFew = 0.01

// changes returns, sorted, what r needs for one that its other build needs, for each round
// that both have, unless that is next to nothing.
func (r *result) changes(m metric) []float64 {
	var all []float64
	for round, s := range r.rounds {
		if before, ok := r.before.rounds[round]; ok && before[m] >= tooFew {
			all = append(all, s[m]/before[m])
		}
	}
	slices.Sort(all)
	return all
}

// best returns the result of the peer that needs least, or nil.
func (c *comparison) best() (best *result) {
	m := c.work.metric()
	for _, r := range c.results {
		if r.library.ours || r.library.gauges() || len(r.rounds) == 0 {
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
		if r.library.gauges() {
			return r
		}
	}
	return nil
}

// enoughRounds is how many it takes to tell how noisy the machine is.
const enoughRounds = 3

// noise returns by how many percent of its median raw TCP differs between rounds, in the
// metric by which libraries are compared. It is NaN if that is not known.
func (c *comparison) noise() float64 {
	raw := c.raw()
	if raw == nil || len(raw.rounds) < enoughRounds {
		return math.NaN()
	}
	all := raw.values(c.work.metric())
	if all[0] <= 0 {
		return math.NaN()
	}
	return 100 * (all[len(all)-1] - all[0]) / middle(all)
}

// quiet returns the comparisons during which the machine is not known to have been too noisy.
func (p *plan) quiet(all []*comparison) (quiet []*comparison) {
	for _, c := range all {
		if !(c.noise() > p.noise) {
			quiet = append(quiet, c)
		}
	}
	return quiet
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

// change formats a ratio that is close to 1.
func change(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return fmt.Sprintf("%.3f", x)
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
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.title(), l.version(), l.about)
	}
	b.WriteString("\n")
	quiet := p.quiet(all)
	p.overview(&b, quiet)
	if p.before != "" {
		changeTables(&b, quiet)
	}
	for _, c := range all {
		c.heading(&b)
		if slices.Contains(quiet, c) {
			c.table(&b)
		} else {
			fmt.Fprintf(&b, "That is more than %g%%: the machine was too noisy for figures.\n\n", p.noise)
		}
	}
	return b.String()
}

// title returns the name of l, in bold if it is ours.
func (l library) title() string {
	if l.ours {
		return "**" + l.String() + "**"
	}
	return l.String()
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
			i := slices.IndexFunc(c.results, func(r *result) bool { return r.library.String() == l.String() })
			if i < 0 {
				b.WriteString(" |")
				continue
			}
			r := c.results[i]
			fmt.Fprintf(b, " %s |", number(r.median(m)))
			if x := r.ratio(best, m); l.ours && l.build == nil && !(x >= least) && !math.IsNaN(x) {
				least = x
			}
		}
		fmt.Fprintf(b, " %s |\n", factor(least))
	}
	b.WriteString("\n")
}

// changeTables writes what has changed since the other build, a table for each metric.
func changeTables(b *strings.Builder, all []*comparison) {
	b.WriteString("## Before and after\n\nWhat a library needs after by what it needs before, both in the same round: the median over the rounds, the least and the most.\n\n")
	for _, m := range []metric{cpu, allocs, memory} {
		var rows strings.Builder
		for _, c := range all {
			if !slices.Contains(c.work.columns(), m) {
				continue
			}
			for _, r := range c.results {
				if r.before != nil {
					r.changeRow(&rows, c.work, m)
				}
			}
		}
		if rows.Len() > 0 {
			fmt.Fprintf(b, "| work | library | %s before | after | after / before | least | most | rounds |\n|---|---|--:|--:|--:|--:|--:|--:|\n%s\n", units[m], &rows)
		}
	}
}

// changeRow writes what has changed in one metric of one work.
func (r *result) changeRow(b *strings.Builder, w work, m metric) {
	all := r.changes(m)
	least, most := math.NaN(), math.NaN()
	if len(all) > 0 {
		least, most = all[0], all[len(all)-1]
	}
	fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %d |\n", w, r.library,
		number(r.before.median(m)), number(r.median(m)), change(middle(all)), change(least), change(most), len(all))
}

// heading writes the name of a work, and how noisy the machine was.
func (c *comparison) heading(b *strings.Builder) {
	name := c.work.String()
	fmt.Fprintf(b, "## %s\n\n", strings.ToUpper(name[:1])+name[1:])
	if noise := c.noise(); !math.IsNaN(noise) {
		fmt.Fprintf(b, "Raw TCP differed by %.1f%% between rounds. ", noise)
	}
}

// table writes all numbers of one work.
func (c *comparison) table(b *strings.Builder) {
	w := c.work
	fmt.Fprintf(b, "%s\n\n", w.per())
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

// version returns the version of l in this program, or in the other build.
func (l library) version() string {
	if l.build != nil {
		return l.build.version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if l.ours {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
		return describe(".") // go run does not note the commit
	}
	for _, m := range info.Deps {
		if m.Path == l.module {
			return m.Version
		}
	}
	return "–"
}
