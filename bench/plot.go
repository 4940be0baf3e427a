package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plots are drawn here, in two plain forms: a plotting library would be most
// of this module.

const (
	plotWidth  = 720
	plotLeft   = 210
	plotRight  = 24
	rowHeight  = 30
	plotTop    = 44
	plotBottom = 36
)

const plotStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.quiet { fill: #6e7781 } .title { font-weight: 600 }
.grid { stroke: #d0d7de } .target { stroke: #cf222e; stroke-dasharray: 4 3 }
.ours { stroke: #0969da; fill: #0969da } .base { stroke: #8c959f; fill: #8c959f }
path { fill: none !important }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet { fill: #8d96a0 } .grid { stroke: #30363d }
.ours { stroke: #4493f8; fill: #4493f8 } .base { stroke: #767e87; fill: #767e87 }
}
</style>
`

// mark is one row of a plot of ratios: what was measured, the same of two identical
// baselines, and what was aimed at (0 is nothing).
type mark struct {
	label    string
	measured spread
	aa       spread
	target   float64
}

// plotRatios draws ratios, each with four fifths of its rounds.
func plotRatios(title string, marks []mark) string {
	low, high := 0.97, 1.05
	for _, m := range marks {
		low = min(low, m.measured.Low, m.aa.Low)
		high = max(high, m.measured.High, m.aa.High, m.target)
	}
	low, high = math.Floor(low*50)/50, math.Ceil(high*50)/50
	x := func(ratio float64) float64 {
		return plotLeft + (ratio-low)/(high-low)*(plotWidth-plotLeft-plotRight)
	}
	height := plotTop + rowHeight*len(marks) + plotBottom
	s := begin(title, height)
	step := 0.02
	for (high-low)/step > 8 {
		step *= 2.5
	}
	for ratio := math.Ceil(low/step) * step; ratio <= high+1e-9; ratio += step {
		fmt.Fprintf(s, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="quiet" text-anchor="middle" x="%.1f" y="%d">%.2f×</text>`+"\n",
			x(ratio), x(ratio), plotTop-8, height-plotBottom, x(ratio), height-14, ratio)
	}
	for i, m := range marks {
		y := float64(plotTop + rowHeight*i + rowHeight/2)
		fmt.Fprintf(s, `<text text-anchor="end" x="%d" y="%.1f">%s</text>`+"\n", plotLeft-12, y+4, html.EscapeString(m.label))
		if m.aa.Value > 0 {
			whisker(s, "base", x, m.aa, y+7)
		}
		whisker(s, "ours", x, m.measured, y-3)
		if m.target > 0 {
			fmt.Fprintf(s, `<line class="target" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", x(m.target), x(m.target), y-13, y+13)
		}
	}
	return s.String() + "</svg>\n"
}

func begin(title string, height int) *strings.Builder {
	s := new(strings.Builder)
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img"><title>%s</title>`+"\n%s",
		plotWidth, height, plotWidth, height, html.EscapeString(title), plotStyle)
	fmt.Fprintf(s, `<text class="title" x="16" y="22">%s</text>`+"\n", html.EscapeString(title))
	return s
}

func whisker(s *strings.Builder, class string, x func(float64) float64, at spread, y float64) {
	fmt.Fprintf(s, `<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke-width="2"/><circle class="%s" cx="%.1f" cy="%.1f" r="4"/>`+"\n",
		class, x(at.Low), x(at.High), y, y, class, x(at.Value), y)
}

// bar is one row of a plot of amounts.
type bar struct {
	label string
	value float64
	text  string
}

// plotBars draws amounts, beside what was aimed at (0 is nothing).
func plotBars(title string, bars []bar, target float64) string {
	most := target
	for _, b := range bars {
		most = max(most, b.value)
	}
	const room = 110 // for the text behind a bar
	x := func(value float64) float64 {
		return plotLeft + value/most*(plotWidth-plotLeft-plotRight-room)
	}
	height := plotTop + rowHeight*len(bars) + 12
	s := begin(title, height)
	for i, b := range bars {
		y := plotTop + rowHeight*i
		fmt.Fprintf(s, `<text text-anchor="end" x="%d" y="%d">%s</text><rect class="ours" x="%d" y="%d" width="%.1f" height="16"/><text class="quiet" x="%.1f" y="%d">%s</text>`+"\n",
			plotLeft-12, y+16, html.EscapeString(b.label), plotLeft, y+4, x(b.value)-plotLeft, x(b.value)+8, y+16, html.EscapeString(b.text))
	}
	if target > 0 {
		fmt.Fprintf(s, `<line class="target" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n", x(target), x(target), plotTop-6, height-8)
	}
	return s.String() + "</svg>\n"
}

// plots draws all of them, by their names.
func (r *Report) plots() map[string]string {
	plots := make(map[string]string)
	for _, c := range r.Costs {
		var marks []mark
		for _, m := range c.Modes {
			marks = append(marks, mark{m.Name, m.CPU(), m.AA(), m.Target})
		}
		plots[fmt.Sprintf("cpu-%d", c.Connections)] = plotRatios("CPU time of a request, "+c.Label()+" (1× is a static header)", marks)
	}
	if len(r.Growth) > 0 {
		var marks []mark
		for i, g := range r.Growth {
			if i == 0 {
				marks = append(marks, mark{label: g.Label() + " (A/A)", measured: g.CPU()})
				continue
			}
			marks = append(marks, mark{label: g.Label(), measured: g.CPU(), target: 1.1})
		}
		plots["growth"] = plotRatios("CPU time of a request, by sellers in memory (1× is one seller)", marks)
	}
	if len(r.Stores) > 0 {
		bars := make([]bar, 0, 2*len(r.Stores))
		for _, s := range r.Stores {
			started, plain := s.Started().Value, s.Plain().Value
			bars = append(bars,
				bar{fmt.Sprintf("%s, %s", s.Name, count(s.Sellers)), started, rounded(started) + " ms"},
				bar{"without the plugin", plain, rounded(plain) + " ms"})
		}
		plots["start"] = plotBars("From the start of the process to the first answer (target: 1 s)", bars, 1000)
	}
	return plots
}
