// Limits on the size of messages that are changed later.

package websocket

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// limitFrames returns what a peer sends: messages of these sizes, compressed as a whole if the
// first byte of the frame says so.
func limitFrames(first byte, hixie, masked bool, sizes ...int) (b []byte) {
	for _, n := range sizes {
		p := strings.Repeat("x", n)
		if first&rsv1Bit != 0 {
			p = deflatedOnce(9, p)
		}
		if hixie {
			b = appendHixie(b, first, []byte(p))
		} else {
			b = wf(first, p).append(b, masked, false)
		}
	}
	return b
}

// TestSetMaxMessage has OnMessage, or whoever reads, choose the limit for the next message.
func TestSetMaxMessage(t *testing.T) {
	sizes := []int{10, 300, maxMessage, maxMessage + 1, 5, 6}
	limits := []int64{10, 300, 0, -1, 5, 5}
	for _, read := range []struct {
		name string
		all  func(c *Conn, next func(n int)) error
	}{
		{"Serve", func(c *Conn, next func(n int)) error {
			return c.Serve(Handler{
				OnOpen:    func(*Conn) { next(0) },
				OnMessage: func(_ *Conn, _ MessageType, p []byte) { next(len(p)) },
			})
		}},
		{"ReadMessage", func(c *Conn, next func(n int)) error {
			for n := 0; ; {
				next(n)
				_, p, err := c.ReadMessage()
				if err != nil {
					return err
				}
				n = len(p)
			}
		}},
		{"NextReader", func(c *Conn, next func(n int)) error {
			for n := 0; ; {
				next(n)
				_, r, err := c.NextReader()
				if err != nil {
					return err
				}
				p, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				n = len(p)
			}
		}},
	} {
		for _, client := range []bool{false, true} {
			for _, kind := range []string{"plain", "compressed", "hixie"} {
				if kind == "hixie" && client {
					continue
				}
				first := byte(finBit | opText)
				if kind == "compressed" {
					first |= rsv1Bit
				}
				for _, chunk := range wireChunks {
					if chunk.name == "one byte" || raceEnabled && chunk.name != "whole" { // takes long
						continue
					}
					in := chunk.of(bytes.NewReader(limitFrames(first, kind == "hixie", !client, sizes...)))
					var out bytes.Buffer
					c := packedConn(wireStream{in, &out}, &Options{MaxMessage: 1}, client, false)
					if kind == "hixie" {
						speakHixie(c, true)
					}
					var got []int
					err := read.all(c, func(n int) {
						if n > 0 {
							got = append(got, n)
						}
						c.SetMaxMessage(limits[len(got)])
					})
					if !slices.Equal(got, sizes[:5]) {
						t.Errorf("%s, client=%t, %s, %s: messages of %d bytes, want %d", read.name, client, kind, chunk.name, got, sizes[:5])
					}
					checkCode(t, err, CloseMessageTooBig, byFailure)
				}
			}
		}
	}
}

// A message keeps the limit with which it has begun: when the header of its first frame has come.
func TestSetMaxMessageWithin(t *testing.T) {
	const header = 6 // bytes
	for _, packed := range []bool{false, true} {
		for _, way := range readings {
			for cut := range header + 3 {
				synctest.Test(t, func(t *testing.T) {
					a, peer := net.Pipe()
					defer peer.Close()
					c := packedConn(a, &Options{MaxMessage: 500}, false, false)
					defer c.CloseNow()
					first, p := byte(opBinary), strings.Repeat("x", 500)
					want := p
					if packed {
						first, p = opBinary|rsv1Bit, deflatedOnce(0, p)
					}
					wire := wf(first, p[:100]).append(nil, true, false)
					wire = wf(finBit, p[100:]).append(wire, true, false)
					wire = wf(finBit|opBinary, "abc").append(wire, true, false)
					go io.Copy(io.Discard, peer)
					read := way.open(c, 500)
					result := make(chan string, 1)
					done := goErr(func() error {
						p, err := read()
						result <- string(p)
						return err
					})
					peer.Write(wire[:cut])
					synctest.Wait()
					c.SetMaxMessage(2)
					go peer.Write(wire[cut:])
					got, err := wait(t, result), wait(t, done)
					if cut < header {
						checkCode(t, err, CloseMessageTooBig, byFailure)
						return
					}
					if got != want || err != nil {
						t.Fatalf("packed=%t, %s, cut at %d: read %d bytes, %v", packed, way.name, cut, len(got), err)
					}
					_, _, err = c.ReadMessage()
					if way.name == "Read" && err == nil { // it was the end of the first message
						_, _, err = c.ReadMessage()
					}
					checkCode(t, err, CloseMessageTooBig, byFailure)
				})
			}
		}
	}
}

// Any goroutine may change the limit while another one reads.
func TestSetMaxMessageConcurrently(t *testing.T) {
	server, client := pipe(t, &Options{MaxMessage: 10})
	stop := make(chan struct{})
	changed := goErr(func() error {
		for n := int64(10); ; n++ {
			select {
			case <-stop:
				return nil
			default:
				server.SetMaxMessage(n)
			}
		}
	})
	sent := goErr(func() error {
		for range 1000 {
			if err := client.WriteMessage(Text, []byte("0123456789")); err != nil {
				return err
			}
		}
		return client.Close()
	})
	n := 0
	err := server.Serve(Handler{OnMessage: func(*Conn, MessageType, []byte) { n++ }})
	close(stop)
	if err := wait(t, sent); n != 1000 || err != nil {
		t.Errorf("read %d messages, sent: %v", n, err)
	}
	checkCode(t, err, CloseNormal, byPeer)
	wait(t, changed)
}
