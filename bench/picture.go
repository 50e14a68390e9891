package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
)

// The picture: for one message on a stream, the ratio of each contender to C by the number of descriptors.
const (
	pictureWidth, pictureHeight = 960, 520
	areaLeft, areaRight         = 64, 660
	areaTop, areaBottom         = 64, 460
	highest                     = 4.0 // × C, at the upper end
)

// colours are told apart in this order also by who does not see red and green.
var colours = []string{"#111827", "#1f4e9c", "#3b82d0", "#7fb4d6", "#0f766e", "#4fa58a", "#94c9a9", "#f2a541", "#c9596b", "#8a6fb0", "#b08a4f", "#d08fb0", "#6b7280", "#c2410c"}

func (r *Report) picture() []byte {
	var p bytes.Buffer
	text := func(x, y float64, attributes, format string, args ...any) {
		fmt.Fprintf(&p, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, fmt.Sprintf(format, args...))
	}
	line := func(x1, y1, x2, y2 float64, attributes string) {
		fmt.Fprintf(&p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, attributes)
	}
	at := func(count int, ratio float64) (x, y float64) {
		x = areaLeft + (areaRight-areaLeft)*math.Log(float64(count))/math.Log(float64(counts[len(counts)-1]))
		return x, areaBottom - (areaBottom-areaTop)*min(ratio, highest)/highest
	}
	fmt.Fprintf(&p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" fill="#1f2937">`+"\n", pictureWidth, pictureHeight)
	fmt.Fprintf(&p, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", pictureWidth, pictureHeight)
	text(areaLeft, 28, `font-size="17" font-weight="bold"`, "Send, receive and close, to plain C")
	text(areaLeft, 48, `fill="#6b7280"`, "SOCK_STREAM, one thread; median of paired ratios; less is faster")
	for y := 0.0; y <= highest; y += 0.5 {
		_, at := at(1, y)
		colour, width := "#e5e7eb", 1
		if y == 1 {
			colour, width = "#1f2937", 2
		}
		line(areaLeft, at, areaRight, at, fmt.Sprintf(`stroke="%s" stroke-width="%d"`, colour, width))
		text(areaLeft-8, at+4, `text-anchor="end"`, "%.1f", y)
	}
	for _, count := range counts {
		x, _ := at(count, 0)
		text(x, areaBottom+20, `text-anchor="middle"`, "%d", count)
	}
	text((areaLeft+areaRight)/2, areaBottom+42, `text-anchor="middle" fill="#6b7280"`, "descriptors in a message")
	type label struct {
		y            float64
		name, colour string
	}
	var labels []label
	for _, name := range r.names(Case{"message", inStream, 1}) {
		if name == "C, plain" {
			continue
		}
		colour := colours[len(labels)%len(colours)]
		var points []string
		var last float64
		for _, count := range counts {
			if x, ok := r.find(Case{"message", inStream, count}, name); ok {
				px, py := at(count, x.Ratio.Median)
				points, last = append(points, fmt.Sprintf("%.1f,%.1f", px, py)), py
				fmt.Fprintf(&p, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", px, py, colour)
			}
		}
		width := 1.5
		if strings.HasPrefix(name, "fdkit") {
			width = 3
		}
		fmt.Fprintf(&p, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%.1f"/>`+"\n", strings.Join(points, " "), colour, width)
		labels = append(labels, label{last, name, colour})
	}
	slices.SortFunc(labels, func(a, b label) int { return int(math.Copysign(1, a.y-b.y)) })
	for i, l := range labels {
		y := float64(areaTop + 12 + i*28)
		fmt.Fprintf(&p, `<rect x="%d" y="%.1f" width="16" height="4" fill="%s"/>`+"\n", areaRight+40, y-6, l.colour)
		text(areaRight+64, y, "", "%s", l.name)
	}
	fmt.Fprintln(&p, "</svg>")
	return p.Bytes()
}

func (r *Report) names(c Case) (names []string) {
	for _, x := range r.of(c) {
		names = append(names, x.Contender)
	}
	return names
}
