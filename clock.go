// A clock for many connections that are to be looked at before they have been silent for too
// long.

package websocket

import (
	"sync"
	"sync/atomic"
	"time"
)

// ticks is how often a clock ticks in an interval. A silence is noticed a sixteenth late, and
// the clock may be a little late itself before that is a tenth.
const ticks = 16

// A clock looks after connections. None needs a timer, and each is looked at only when it is
// due: about once in an interval, whether it is busy or not.
type clock struct {
	now   atomic.Uint32 // ticks so far
	mu    sync.Mutex    // guards what follows, and the places of all that is watched
	timer *time.Timer   // of the next tick, or nil before the first
	tick  time.Duration
	wheel [ticks][]watched // by the tick at which they are due, of the next ones
	n     int              // how many there are
}

// A watched is what a clock looks at.
type watched interface {
	place() *place
	look(now uint32) (due uint32, more bool) // the tick, within an interval, at which to look again
}

// A place says where a clock has something.
//
//	nowhere → inWheel ⇄ looked at → nowhere
type place struct {
	state placeState
	at    uint8 // index of wheel
	index int32 // there
}

type placeState byte

const (
	nowhere placeState = iota
	inWheel
	lookedAt
)

// watch has w looked at in an interval.
func (k *clock) watch(w watched, interval time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(w, k.now.Load()+ticks)
	if k.n++; k.n > 1 {
		return
	}
	if k.tick = max(1, interval/ticks); k.timer == nil {
		k.timer = time.AfterFunc(k.tick, k.run)
	} else {
		k.timer.Reset(k.tick)
	}
}

// hasten has w looked at in some ticks at the latest.
func (k *clock) hasten(w watched, soon uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := k.now.Load() + soon
	p := w.place()
	if later := (uint32(p.at) - due) % ticks; p.state == inWheel && 0 < later && later <= ticks-soon {
		k.take(p)
		k.put(w, due)
	}
}

// span returns how long n ticks are.
func (k *clock) span(n int) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Duration(n) * k.tick
}

// forget has w not looked at any more. It may be called more than once.
func (k *clock) forget(w watched) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := w.place()
	if p.state == nowhere {
		return
	}
	if p.state == inWheel {
		k.take(p)
	}
	p.state = nowhere
	k.leave()
}

// take takes what has that place off the wheel. mu is held.
func (k *clock) take(p *place) {
	slot := k.wheel[p.at]
	last := len(slot) - 1
	slot[p.index] = slot[last]
	slot[p.index].place().index = p.index
	slot[last] = nil
	k.wheel[p.at] = slot[:last]
}

// leave notes that there is one less to look at. mu is held.
func (k *clock) leave() {
	if k.n--; k.n == 0 {
		k.timer.Stop()
	}
}

// put has w looked at in a tick to come. mu is held.
func (k *clock) put(w watched, due uint32) {
	at := due % ticks
	*w.place() = place{inWheel, uint8(at), int32(len(k.wheel[at]))}
	k.wheel[at] = append(k.wheel[at], w)
}

// run is a tick.
func (k *clock) run() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n == 0 {
		return
	}
	k.timer.Reset(k.tick) // first, so as not to be late
	now := k.now.Add(1)
	slot := &k.wheel[now%ticks]
	due := *slot
	*slot = nil
	for _, w := range due {
		w.place().state = lookedAt
	}
	for i, w := range due {
		due[i] = nil
		if w.place().state == nowhere { // forgotten meanwhile
			continue
		}
		k.mu.Unlock()
		next, more := w.look(now)
		k.mu.Lock()
		switch {
		case w.place().state == nowhere:
		case more:
			k.put(w, next)
		default:
			w.place().state = nowhere
			k.leave()
		}
	}
	if *slot == nil {
		*slot = due[:0]
	}
}
