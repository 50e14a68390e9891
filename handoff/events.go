package handoff

import (
	"log/slog"
	"time"
)

// An EventKind says what has happened to a service.
type EventKind string

// The events of a service, in the order of a life.
const (
	EventFresh     EventKind = "began afresh"     // there is no predecessor
	EventAdopted   EventKind = "adopted"          // everything of the predecessor has arrived
	EventServing   EventKind = "serving"          // this process accepts
	EventSettled   EventKind = "settled"          // the predecessor cannot take back any more
	EventOffering  EventKind = "offering"         // a successor has come
	EventItems     EventKind = "items"            // a frame of items has moved, and so many of all
	EventPaused    EventKind = "paused"           // nobody accepts until the successor does
	EventKept      EventKind = "kept serving"     // the handoff came to nothing
	EventTookBack  EventKind = "took back"        // the successor failed after the commit
	EventHanded    EventKind = "handed over"      // the successor serves for good
	EventStop      EventKind = "told to stop"     //
	EventUnclaimed EventKind = "unclaimed socket" // the successor does not want it; the predecessor serves it out, or the service manager has it
	EventMoved     EventKind = "moved"            // connections that go on with the successor; with an Err, no others will
	EventDrained   EventKind = "drained"          // the last connection has ended
	EventManager   EventKind = "manager not told" // the service manager does not hear; the service goes on without
)

// An Event is one step of a service.
type Event struct {
	Kind  EventKind
	PID   int           // of the other side, where there is one
	Name  string        // of the socket, where it is about one
	Took  time.Duration // paused: until nobody accepted; handed over: since the pause began; drained: so long
	Total int           // items: of so many
	Count int           // adopted, items: so many; moved: connections; drained: connections that were cut
	// Dropped is how many datagrams the kernel had no room for, from the pause until the successor served for good,
	// of all sockets of a handed over service. See SetReadBuffer for more room.
	Dropped int

	Err error // the reason, where something failed
}

// tell logs an event and reports it.
func (s *Service) tell(e Event) {
	level := slog.LevelInfo
	switch e.Kind {
	case EventItems:
		level = slog.LevelDebug
	case EventUnclaimed:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("service", s.options.Name), slog.Uint64("generation", s.generation)}
	if e.PID != 0 {
		attrs = append(attrs, slog.Int("peer", e.PID))
	}
	if e.Name != "" {
		attrs = append(attrs, slog.String("name", e.Name))
	}
	if e.Took != 0 {
		attrs = append(attrs, slog.Duration("took", e.Took))
	}
	if e.Count != 0 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	if e.Dropped != 0 {
		level = slog.LevelWarn
		attrs = append(attrs, slog.Int("dropped", e.Dropped))
	}
	if e.Total != 0 {
		attrs = append(attrs, slog.Int("total", e.Total))
	}
	if e.Err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.Any("reason", e.Err))
	}
	s.options.Logger.LogAttrs(s.ctx, level, string(e.Kind), attrs...)
	if s.options.Events != nil {
		s.options.Events(e)
	}
}
