// Pings and pongs (RFC 6455, sections 5.5.2 and 5.5.3).

package websocket

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Ping sends a ping and waits for its pong, or until ctx is done. Another goroutine has to read
// from c meanwhile, as that is how the pong is found. During a callback of [Conn.Serve] nobody
// reads, so that a Ping in a callback waits until ctx is done: it belongs in another goroutine, or
// is left to Options.PingInterval. For hixie-76, which has no pings, and in a browser, where a page
// cannot send any, the error wraps [errors.ErrUnsupported].
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
		c.pings.remove(p)
		return ctx.Err()
	}
}

func (c *Conn) sendPing() (ping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.write.isHixie() {
		return ping{}, fmt.Errorf("websocket: hixie-76 has no pings: %w", errors.ErrUnsupported)
	}
	if _, ok := c.t.stream().(interface{ pingless() }); ok {
		return ping{}, fmt.Errorf("websocket: a page cannot send pings: %w", errors.ErrUnsupported)
	}
	if err := cmp.Or(c.end.writable(), c.end.readable()); err != nil {
		return ping{}, err
	}
	if c.pings == nil {
		c.pings = new(pinger)
	}
	p := c.pings.add()
	return p, c.putControlLocked(opPing, binary.BigEndian.AppendUint64(nil, p.id))
}

// acceptPing sends a pong.
func (c *Conn) acceptPing(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end.writable() == nil {
		c.putControlLocked(opPong, payload)
	}
}

// acceptPong ends the wait for the ping that it answers.
func (c *Conn) acceptPong(payload []byte) {
	if len(payload) != 8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pings.answer(binary.BigEndian.Uint64(payload))
}
