package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Measures of the chart, in pixels.
const (
	chartWidth  = 760
	labelWidth  = 120
	numberWidth = 100
	barHeight   = 14
	barStep     = 19
	titleHeight = 34
)

// chartStyle has colours for light pages and for dark ones.
const chartStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 13px; }
.label { text-anchor: end; }
.ours { fill: #0969da; }
.peer { fill: #afb8c1; }
.limit { fill: none; stroke: #8c959f; stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.ours { fill: #4493f8; }
.peer { fill: #545d68; }
.limit { stroke: #768390; }
}
</style>
`

// chart returns an SVG picture with a bar for each library, for each of the main works.
func chart(all []*comparison) string {
	var b strings.Builder
	b.WriteString("<text x=\"0\" y=\"16\">What the server needs; less is better. Blue: this library. Dashed: TCP without WebSocket. ×: by the best of the others.</text>\n")
	y := 36
	for _, c := range all {
		if c.work.Main {
			y = c.bars(&b, y)
		}
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\">\n"+
		"<title>What the server needs, by library; less is better</title>\n%s%s</svg>\n",
		chartWidth, y, chartWidth, y, chartStyle, &b)
}

// bars draws one work below y and returns where the next begins.
func (c *comparison) bars(b *strings.Builder, y int) int {
	m := c.work.metric()
	unit := "µs of server CPU a message"
	switch c.work.Kind {
	case idle:
		unit = "resident bytes a connection"
	case handshake:
		unit = "µs of server CPU a connection"
	}
	most := 0.0
	for _, r := range c.results {
		if x := r.median(m); x > most {
			most = x
		}
	}
	if most == 0 {
		return y
	}
	fmt.Fprintf(b, "<text class=\"title\" x=\"0\" y=\"%d\">%s: %s</text>\n", y+16, html.EscapeString(c.work.String()), unit)
	y += titleHeight - 8
	best := c.best()
	for _, r := range c.sorted() {
		x := r.median(m)
		if math.IsNaN(x) {
			continue
		}
		class := "peer"
		switch {
		case r.library.ours:
			class = "ours"
		case r.library.gauges():
			class = "limit"
		}
		width := max(1, max(x, 0)/most*(chartWidth-labelWidth-numberWidth))
		text := number(x)
		if ratio := r.ratio(best, m); !math.IsNaN(ratio) && class != "limit" {
			text += fmt.Sprintf(" (×%.2f)", ratio)
		}
		fmt.Fprintf(b, "<text class=\"label\" x=\"%d\" y=\"%d\">%s</text>", labelWidth-8, y+11, html.EscapeString(r.library.String()))
		fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", class, labelWidth, y, width, barHeight)
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", labelWidth+width+6, y+11, text)
		y += barStep
	}
	return y + 10
}
