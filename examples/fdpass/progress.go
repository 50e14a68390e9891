package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// A progress is a line on a terminal that is rewritten until it is stopped.
type progress struct {
	done    chan struct{}
	running sync.WaitGroup
}

// startProgress shows what line returns, if w is a terminal.
func startProgress(w io.Writer, line func() string) *progress {
	p := &progress{done: make(chan struct{})}
	if f, ok := w.(*os.File); !ok || !isTerminal(f) {
		return p
	}
	const erase = "\r\x1b[K"
	p.running.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprint(w, erase, line())
			case <-p.done:
				fmt.Fprint(w, erase)
				return
			}
		}
	})
	return p
}

// stop takes the line away.
func (p *progress) stop() {
	close(p.done)
	p.running.Wait()
}
