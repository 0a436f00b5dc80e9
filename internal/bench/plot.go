package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Measures of the plots, in pixels, beside those of the chart.
const (
	plotLeft   = 60
	plotRight  = chartWidth - labelWidth
	plotHeight = 220
	nameHeight = 14
)

// plotStyle has a colour for each line, on light pages and on dark ones.
const plotStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 13px; }
.left { text-anchor: end; }
.below { text-anchor: middle; }
.grid { stroke: #d8dee4; }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; }
polyline.ours { stroke-width: 3; }
polyline.limit { stroke-dasharray: 4 3; }
text.name { fill: currentColor; }
.ours { color: #0969da; }
.limit { color: #6e7781; }
.peer0 { color: #bc4c00; }
.peer1 { color: #8250df; }
.peer2 { color: #1a7f37; }
.peer3 { color: #cf222e; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.grid { stroke: #30363d; }
.ours { color: #4493f8; }
.limit { color: #8b949e; }
.peer0 { color: #f0883e; }
.peer1 { color: #bc8cff; }
.peer2 { color: #3fb950; }
.peer3 { color: #ff7b72; }
}
</style>
`

// peerColours is how many colours there are for libraries that are not ours.
const peerColours = 4

// plot returns an SVG picture of what it costs to have more connections, by the sparse works, or
// nothing if there are fewer than two.
func plot(all []*comparison) string {
	var works []*comparison
	for _, c := range all {
		if c.work.Kind == sparse {
			works = append(works, c)
		}
	}
	if len(works) < 2 {
		return ""
	}
	slices.SortFunc(works, func(a, b *comparison) int { return cmp.Compare(a.work.Conns, b.work.Conns) })
	var b strings.Builder
	fmt.Fprintf(&b, "<text x=\"0\" y=\"16\">By the number of connections, of which one in %d is active; less is better. Dashed: TCP without WebSocket.</text>\n", idlePerActive)
	y := 36
	y = lines(&b, y, works, cpu, "µs of server CPU a message")
	y = lines(&b, y, works, memory, "resident bytes a connection")
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\">\n"+
		"<title>What it costs the server to have more connections, by library; less is better</title>\n%s%s</svg>\n",
		chartWidth, y, chartWidth, y, plotStyle, &b)
}

// A scale is a logarithmic axis.
type scale struct {
	least, most float64 // values
	from, to    float64 // where they are, in pixels
}

func (s scale) at(x float64) float64 {
	return s.from + (s.to-s.from)*math.Log(x/s.least)/math.Log(s.most/s.least)
}

// ticks returns the numbers 1, 2 and 5 times powers of ten from the last that is not above least
// to the first that is not below most.
func ticks(least, most float64) (all []float64) {
	for power := math.Pow(10, math.Floor(math.Log10(least))); ; power *= 10 {
		for _, x := range []float64{power, 2 * power, 5 * power} {
			if x <= least {
				all = all[:0]
			}
			all = append(all, x)
			if x >= most && len(all) > 1 {
				return all
			}
		}
	}
}

// A line is what one library needs in all works.
type line struct {
	name, class string
	values      []float64 // NaN where there is none
	end         float64   // where its name is, in pixels
}

// linesOf returns a line for each library that has been measured.
func linesOf(works []*comparison, m metric) (all []*line) {
	peers := 0
	for i, c := range works {
		for _, r := range c.results {
			x, name := r.median(m), r.library.String()
			if !(x > 0) {
				continue
			}
			at := slices.IndexFunc(all, func(l *line) bool { return l.name == name })
			if at < 0 {
				l := &line{name: name, class: "ours", values: slices.Repeat([]float64{math.NaN()}, len(works))}
				switch {
				case r.library.gauges():
					l.class = "limit"
				case !r.library.ours:
					l.class = fmt.Sprintf("peer%d", peers%peerColours)
					peers++
				}
				at, all = len(all), append(all, l)
			}
			all[at].values[i] = x
		}
	}
	return all
}

// lines draws a metric of all works below y and returns where the next begins.
func lines(b *strings.Builder, y int, works []*comparison, m metric, unit string) int {
	all := linesOf(works, m)
	least, most := math.Inf(1), 0.0
	for _, l := range all {
		for _, x := range l.values {
			if !math.IsNaN(x) {
				least, most = min(least, x), max(most, x)
			}
		}
	}
	if most == 0 {
		return y
	}
	fmt.Fprintf(b, "<text class=\"title\" x=\"0\" y=\"%d\">%s</text>\n", y+16, html.EscapeString(unit))
	y += titleHeight
	up := ticks(least, most)
	vertical := scale{up[0], up[len(up)-1], float64(y + plotHeight), float64(y)}
	for _, x := range up {
		at := vertical.at(x)
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", plotLeft, plotRight, at, at)
		fmt.Fprintf(b, "<text class=\"left\" x=\"%d\" y=\"%.1f\">%g</text>\n", plotLeft-8, at+4, x)
	}
	across := scale{float64(works[0].work.Conns), float64(works[len(works)-1].work.Conns), plotLeft, plotRight}
	for _, c := range works {
		at := across.at(float64(c.work.Conns))
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", at, at, y, y+plotHeight)
		fmt.Fprintf(b, "<text class=\"below\" x=\"%.1f\" y=\"%d\">%d</text>\n", at, y+plotHeight+18, c.work.Conns)
	}
	for _, l := range all {
		fmt.Fprintf(b, "<polyline class=\"%s\" points=\"", l.class)
		for i, x := range l.values {
			if !math.IsNaN(x) {
				l.end = vertical.at(x)
				fmt.Fprintf(b, "%.1f,%.1f ", across.at(float64(works[i].work.Conns)), l.end)
			}
		}
		b.WriteString("\"/>\n")
	}
	spread(all, nameHeight)
	for _, l := range all {
		fmt.Fprintf(b, "<text class=\"name %s\" x=\"%d\" y=\"%.1f\">%s</text>\n", l.class, plotRight+8, l.end+4, html.EscapeString(l.name))
	}
	return y + plotHeight + titleHeight
}

// spread sorts all by their ends and moves these down until they are a distance from each other.
func spread(all []*line, distance float64) {
	slices.SortFunc(all, func(a, b *line) int { return cmp.Compare(a.end, b.end) })
	for i, l := range all[min(1, len(all)):] {
		l.end = max(l.end, all[i].end+distance)
	}
}
