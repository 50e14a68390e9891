package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/fdkit/fdkit/internal/load"
)

// The size of the picture, and of the area with the bars in it.
const (
	plotWidth, plotHeight = 1000, 470
	plotLeft, plotRight   = 72, 976
	plotTop, plotBottom   = 96, 372

	maxBars = 160 // as many as are still told apart
)

// colours are told apart in this order also by who does not see red and green.
var colours = []string{"#3b6fb6", "#f2a541", "#4fa58a", "#c9596b", "#8a6fb0", "#7fb4d6", "#b08a4f", "#6b7280"}

// writePlot draws the requests of each generation over time into a file.
func (r *trial) writePlot(path string) error {
	return os.WriteFile(path, r.plotSVG(), 0o644)
}

// A plot is the picture while it is drawn.
type plot struct {
	bytes.Buffer
	span  time.Duration // shown
	width time.Duration // of a bar
	top   int           // requests at the upper end of the scale
}

func (p *plot) x(t time.Duration) float64 {
	return plotLeft + (plotRight-plotLeft)*min(max(float64(t)/float64(p.span), 0), 1)
}

func (p *plot) y(n int) float64 {
	return plotBottom - (plotBottom-plotTop)*float64(n)/float64(p.top)
}

func (p *plot) text(x, y float64, attributes, format string, args ...any) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, fmt.Sprintf(format, args...))
}

func (p *plot) line(x1, y1, x2, y2 float64, attributes string) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, attributes)
}

func (r *trial) plotSVG() []byte {
	p := &plot{span: max(r.load.Took, time.Millisecond)}
	p.width = time.Duration(niceStep(float64(p.span)/float64(time.Millisecond)/maxBars)) * time.Millisecond
	bars := r.bars(p.width)
	highest := 1
	for _, bar := range bars {
		sum := 0
		for _, n := range bar {
			sum += n
		}
		highest = max(highest, sum)
	}
	step := niceStep(float64(highest) / 6)
	p.top = (highest + step - 1) / step * step

	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12" fill="#4b5563">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(p, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, plotHeight)
	r.drawTitle(p)
	for n := 0; n <= p.top; n += step {
		p.line(plotLeft, p.y(n), plotRight, p.y(n), `stroke="#e5e7eb"`)
		p.text(plotLeft-8, p.y(n)+4, `text-anchor="end"`, "%s", count(n))
	}
	p.text(20, (plotTop+plotBottom)/2, fmt.Sprintf(`text-anchor="middle" transform="rotate(-90 20 %d)"`, (plotTop+plotBottom)/2),
		"requests per %d ms", p.width.Milliseconds())
	r.drawBands(p)
	r.drawBars(p, bars)
	r.drawChanges(p)
	r.drawFailures(p)
	p.line(plotLeft, plotBottom, plotRight, plotBottom, `stroke="#9ca3af"`)
	seconds := niceTenths(p.span.Seconds() / 8)
	for t := 0.0; t <= p.span.Seconds(); t += seconds {
		x := p.x(time.Duration(t * float64(time.Second)))
		p.line(x, plotBottom, x, plotBottom+5, `stroke="#9ca3af"`)
		p.text(x, plotBottom+19, `text-anchor="middle"`, "%.4g", t)
	}
	p.text((plotLeft+plotRight)/2, plotBottom+38, `text-anchor="middle"`, "seconds under load")
	r.drawLegend(p)
	p.WriteString("</svg>\n")
	return p.Bytes()
}

func (r *trial) drawTitle(p *plot) {
	p.text(plotLeft, 34, `font-size="19" font-weight="600" fill="#111827"`, "%s requests while the server was replaced %s",
		count(int(r.load.Answered.Load())), times(len(r.generations)-1))
	colour := "#15803d"
	n := len(r.blame().failed)
	if n > 0 {
		colour = "#b91c1c"
	}
	p.text(plotLeft, 56, fmt.Sprintf(`font-size="14" font-weight="600" fill="%s"`, colour), "%s failed", count(n))
	if len(r.changes) > 0 {
		p.text(plotRight, 56, `text-anchor="end"`, "grey: from the order to replace it until the successor serves")
	}
}

// bars returns how many requests each generation answered in each interval. The last interval is
// left out if it is not whole.
func (r *trial) bars(width time.Duration) [][]int {
	bars := make([][]int, max(int(r.load.Took/width), 1))
	for i := range bars {
		bars[i] = make([]int, len(r.generations))
	}
	place := map[int]int{} // of a pid
	for g := range r.generations {
		place[r.generations[g].pid] = g
	}
	for s := range r.load.Samples() {
		i := int(s.End() / width)
		if g, known := place[int(s.PID)]; known && i < len(bars) {
			bars[i][g]++
		}
	}
	return bars
}

func (r *trial) drawBars(p *plot, bars [][]int) {
	gap := 0.0
	if p.x(p.width)-p.x(0) >= 4 {
		gap = 1
	}
	for g, from := range r.generations {
		fmt.Fprintf(p, `<path fill="%s" d="`, colours[g%len(colours)])
		for i, bar := range bars {
			below := 0
			for _, n := range bar[:g] {
				below += n
			}
			if bar[g] > 0 {
				left, right := p.x(time.Duration(i)*p.width), p.x(time.Duration(i+1)*p.width)
				fmt.Fprintf(p, "M%.1f %.1fH%.1fV%.1fH%.1fZ", left, p.y(below), right-gap, p.y(below+bar[g]), left)
			}
		}
		fmt.Fprintf(p, `"><title>generation %d</title></path>`+"\n", from.number)
	}
}

// drawBands draws a band from each trigger to the moment when the next generation served.
func (r *trial) drawBands(p *plot) {
	for _, c := range r.changes {
		left, right := p.x(c.trigger), p.x(c.serving)
		fmt.Fprintf(p, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s" opacity="0.25"/>`+"\n",
			left, plotTop-10, right-left, plotBottom-plotTop+10, c.colour())
	}
}

func (c change) colour() string {
	if c.to == nil {
		return "#b91c1c"
	}
	return "#9ca3af"
}

// drawChanges draws a line where the next generation began to serve, and writes the generations
// between the lines.
func (r *trial) drawChanges(p *plot) {
	for _, c := range r.changes {
		x := p.x(c.serving)
		p.line(x, plotTop-10, x, plotBottom, `stroke="#374151" stroke-dasharray="4 3"`)
		if c.to == nil {
			p.text(x, plotTop-14, fmt.Sprintf(`text-anchor="middle" fill="%s"`, c.colour()), "failed")
		}
	}
	from := time.Duration(0)
	number := uint64(1)
	write := func(to time.Duration) {
		label := fmt.Sprintf("generation %d", number)
		if room := p.x(to) - p.x(from); room < 20 {
			label = ""
		} else if room < 96 {
			label = fmt.Sprint(number)
		}
		p.text((p.x(from)+p.x(to))/2, plotTop-14, `text-anchor="middle" fill="#111827"`, "%s", label)
	}
	for _, c := range r.changes {
		if c.to != nil {
			write(c.serving)
			from, number = c.serving, c.to.number
		}
	}
	write(p.span)
}

func (r *trial) drawFailures(p *plot) {
	for _, f := range r.blame().failed {
		x := p.x(f.At)
		p.line(x, plotBottom-9, x, plotBottom, `stroke="#b91c1c" stroke-width="1.5"`)
	}
}

// drawLegend names the generations, as many as there is room for.
func (r *trial) drawLegend(p *plot) {
	const columns, column, row = 6, 151, 18
	served := r.load.Served()
	for i, g := range r.generations {
		if i == 2*columns-1 && len(r.generations) > 2*columns {
			p.text(plotLeft+column*(columns-1), plotBottom+64+row, "", "and %d more", len(r.generations)-i)
			return
		}
		x, y := float64(plotLeft+i%columns*column), float64(plotBottom+64+i/columns*row)
		fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="11" height="11" rx="2" fill="%s"/>`+"\n", x, y-10, colours[i%len(colours)])
		p.text(x+17, y, "", "%d: %s requests", g.number, count(int(served[load.Origin{Generation: g.number, PID: g.pid}])))
	}
}

// niceStep returns the smallest of 1, 2, 5, 10, 20, 50, … that is not below x.
func niceStep(x float64) int {
	for power := 1; ; power *= 10 {
		for _, f := range []int{1, 2, 5} {
			if float64(f*power) >= x {
				return f * power
			}
		}
	}
}

// niceTenths is niceStep for fractions, down to 0.01.
func niceTenths(x float64) float64 { return float64(niceStep(math.Ceil(x*100))) / 100 }

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
