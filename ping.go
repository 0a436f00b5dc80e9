package websocket

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// A ping is one that waits for its pong, or for an error.
type ping struct {
	id   uint64
	done chan error // takes one
}

// Ping sends a ping and waits for its pong, or until ctx is done. Another goroutine
// has to read from c meanwhile, as that is how the pong is found, so Ping cannot be called
// within a callback of [Conn.Serve]. For hixie-76, which
// has no pings, the error wraps [errors.ErrUnsupported].
func (c *Conn) Ping(ctx context.Context) error {
	p, err := c.sendPing()
	if err != nil {
		return err
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pings = slices.DeleteFunc(c.pings, func(q ping) bool { return q.id == p.id })
		return ctx.Err()
	}
}

func (c *Conn) sendPing() (ping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dec.hixie {
		return ping{}, fmt.Errorf("websocket: hixie-76 has no pings: %w", errors.ErrUnsupported)
	}
	if err := cmp.Or(c.writable(), c.rerr); err != nil {
		return ping{}, err
	}
	c.lastPing++
	p := ping{c.lastPing, make(chan error, 1)}
	c.pings = append(c.pings, p)
	return p, c.putControl(opPing, binary.BigEndian.AppendUint64(nil, p.id))
}

// acceptPing sends a pong (RFC 6455, section 5.5.3).
func (c *Conn) acceptPing(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writable() == nil {
		c.putControl(opPong, payload)
	}
}

// acceptPong ends the wait for the ping that it answers and for earlier ones,
// which the peer need not answer (RFC 6455, section 5.5.3). Other pongs mean
// nothing.
func (c *Conn) acceptPong(payload []byte) {
	if len(payload) != 8 {
		return
	}
	id := binary.BigEndian.Uint64(payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	for id <= c.lastPing && len(c.pings) > 0 && c.pings[0].id <= id {
		c.pings[0].done <- nil
		c.pings = c.pings[1:]
	}
}

// A keepalive is what Serve needs to find out that a peer is gone.
type keepalive struct {
	timer    *time.Timer
	interval time.Duration
	rests    uint8 // of a peer that has been silent for an interval
	pinged   bool
	moved    uint32 // value of Conn.moved
	stalls   int    // times that one write has been seen
}

var (
	errSilent  = fmt.Errorf("websocket: the peer does not answer: %w", os.ErrDeadlineExceeded)
	errStalled = fmt.Errorf("websocket: the peer does not read: %w", os.ErrDeadlineExceeded)
)

// keepAlive looks after the peer once in an interval. It does not expect anything from a
// peer that nobody listens to, because a callback runs.
func (c *Conn) keepAlive() {
	c.mu.Lock()
	k := c.alive
	calm := !c.heard.Swap(false) && c.reading && !c.writing
	silent := calm && !c.dec.hixie
	moved := c.moved.Load()
	if c.writing && moved == k.moved {
		k.stalls++
	} else {
		k.stalls = 0
	}
	k.moved = moved
	var err error
	switch {
	case c.rerr != nil || c.shutdown: // the watchdog does the rest
	case k.stalls > 3:
		err = errStalled
	case silent && k.pinged:
		err = errSilent
	default:
		k.pinged = silent
		if calm {
			c.calm = k.rests
		}
		if silent && c.writable() == nil {
			c.putControl(opPing, nil)
		}
		k.timer.Reset(k.interval)
	}
	c.mu.Unlock()
	if err != nil {
		c.abort(err)
	}
}
