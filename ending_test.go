package websocket

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
)

var (
	endingByUs   = &CloseError{Code: CloseNormal, by: byUs}
	endingByPeer = &CloseError{Code: CloseGoingAway, by: byPeer}
	endingReset  = &net.OpError{Op: "read", Err: errBroken}
)

// The phases follow each other as their comment draws them, and no other way.
func TestEndingPhases(t *testing.T) {
	begin := func(e *ending) { e.begin(endingByUs, true) }
	hopeless := func(e *ending) { e.begin(endingByUs, false) }
	end := func(e *ending) { e.end(io.EOF) }
	const never = phaseClosed + 1 // it is not called there
	for _, tt := range []struct {
		name string
		f    func(*ending)
		to   [phaseClosed + 1]phase // from each
	}{
		{"connect", (*ending).connect, [...]phase{phaseConnecting, phaseConnecting, phaseClosing, phaseEnded, phaseShut, phaseClosed}},
		{"accept", (*ending).accept, [...]phase{phaseOpen, phaseOpen, phaseClosing, phaseEnded, phaseShut, phaseClosed}},
		{"begin", begin, [...]phase{phaseClosing, phaseConnecting, phaseClosing, phaseEnded, phaseShut, phaseClosed}},
		{"begin without a frame", hopeless, [...]phase{phaseOpen, phaseConnecting, phaseClosing, phaseEnded, phaseShut, phaseClosed}},
		{"end", end, [...]phase{phaseEnded, phaseConnecting, phaseEnded, phaseEnded, phaseShut, phaseClosed}},
		{"shut", (*ending).shut, [...]phase{phaseShut, phaseShut, phaseShut, phaseShut, never, never}},
		{"closed", (*ending).closed, [...]phase{never, never, never, never, phaseClosed, never}},
	} {
		for from, to := range tt.to {
			if to == never {
				continue
			}
			e := ending{phase: phase(from)}
			if tt.f(&e); e.phase != to {
				t.Errorf("%s leads from %d to %d, want %d", tt.name, from, e.phase, to)
			}
			if e.isConnecting() != (to == phaseConnecting) || e.isShut() != (to >= phaseShut) || e.isClosed() != (to == phaseClosed) {
				t.Errorf("%d is shown as another phase", to)
			}
		}
	}
}

// Reads and writes keep their first errors, each its own, whatever comes later.
func TestEndingFirstError(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var e ending
		var read, write, broken, last error
		for n := range 20 {
			err := fmt.Errorf("error %d", n)
			step := r.IntN(5)
			switch step {
			case 0:
				if first := e.stopReads(err); first != (read == nil) {
					t.Fatalf("the error of reads is the first: %t", first)
				}
				if read == nil {
					read = err
				}
			case 1:
				if sendable := e.stopWrites(err); sendable != (write == nil) {
					t.Fatalf("a close frame can be sent: %t", sendable)
				}
			case 2:
				e.breakWrites(err)
				broken = err
			case 3:
				e.end(err)
				last = err
			case 4:
				e.expire()
			}
			if (step == 1 || step == 2) && write == nil {
				write = err
			}
			got := []error{e.readable(), e.writable(), e.failed(), e.lastInput()}
			if want := []error{read, write, broken, last}; !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: the errors are %v, want %v", seed, n, got, want)
			}
			if e.sends() != (write == nil) || e.isOver() != (last != nil) || e.answered() {
				t.Fatal("the errors are shown as others")
			}
		}
	}
}

// A closing handshake is begun with a frame where one can be sent, waits for the answer only if
// that may come, and is hopeless where nothing would reach the peer.
func TestEndingBegin(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		before                 func(*ending)
		framed                 bool
		send, hopeless, awaits bool
		write                  error // afterwards
	}{
		{"an open connection", func(*ending) {}, true, true, false, true, endingByUs},
		{"no frame possible", func(*ending) {}, false, false, true, false, endingByUs},
		{"a handshake", (*ending).connect, true, false, true, false, endingByUs},
		{"a handshake that is over", func(e *ending) { e.connect(); e.accept() }, true, true, false, true, endingByUs},
		{"begun before", func(e *ending) { e.begin(endingByUs, true); e.stopReads(endingByUs) }, true, false, false, true, endingByUs},
		{"begun before, and answered", func(e *ending) { e.begin(endingByUs, true); e.end(endingByPeer) }, true, false, false, true, endingByUs},
		{"closed by the peer", func(e *ending) { e.stopWrites(endingByPeer); e.stopReads(endingByPeer); e.end(endingByPeer) }, true, false, false, false, endingByPeer},
		{"the input has ended", func(e *ending) { e.stopReads(io.EOF) }, true, true, false, false, endingByUs},
		{"reset by the peer", func(e *ending) { e.stopReads(endingReset) }, true, false, true, false, endingByUs},
		{"reset by the peer, and wrapped", func(e *ending) { e.stopReads(fmt.Errorf("read: %w", endingReset)) }, true, false, true, false, endingByUs},
		{"a write has failed", func(e *ending) { e.breakWrites(errBroken) }, true, false, true, false, errBroken},
		{"begun, and then a write has failed", func(e *ending) { e.begin(endingByUs, true); e.breakWrites(errBroken) }, true, false, true, true, endingByUs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e ending
			tt.before(&e)
			send, hopeless := e.begin(endingByUs, tt.framed)
			if send != tt.send || hopeless != tt.hopeless || e.awaits() != tt.awaits {
				t.Errorf("send: %t, hopeless: %t, awaits: %t, want %t, %t, %t", send, hopeless, e.awaits(), tt.send, tt.hopeless, tt.awaits)
			}
			if hopeless && send {
				t.Error("a frame is sent without hope")
			}
			if e.accept(); e.writable() != tt.write || e.sends() {
				t.Errorf("later writes return %v, want %v", e.writable(), tt.write)
			}
			if send, _ := e.begin(endingByPeer, tt.framed); send || e.writable() != tt.write {
				t.Errorf("begun again, with a frame: %t; later writes return %v", send, e.writable())
			}
		})
	}
}

// Until the opening handshake is accepted nothing can be written, though it may be later.
func TestEndingConnecting(t *testing.T) {
	var e ending
	e.connect()
	if err := e.writable(); err != errUnfinished || !e.sends() || e.readable() != nil {
		t.Error("a write returns", err)
	}
	if e.stopWrites(errBroken) || e.writable() != errBroken {
		t.Error("a close frame can be sent within the handshake")
	}
	e = ending{}
	e.connect()
	if e.accept(); e.writable() != nil {
		t.Error("a write returns", e.writable())
	}
}

// A close frame of the peer is an answer, whatever it says; a fault of the peer is none.
func TestEndingAnswered(t *testing.T) {
	for err, want := range map[error]bool{
		endingByPeer: true,
		&CloseError{Code: CloseNormal, by: byPeerEarly}: true,
		failure(CloseProtocolError, ""):                 false,
		io.EOF:                                          false,
		errors.Join(endingByPeer):                       false, // the input itself ends with no such error
	} {
		var e ending
		e.begin(endingByUs, true)
		if e.isOver() || e.answered() || e.lastInput() != nil {
			t.Error("over before the end")
		}
		e.end(err)
		if !e.isOver() || e.answered() != want || e.lastInput() != err {
			t.Errorf("%v is an answer: %t, want %t", err, e.answered(), want)
		}
	}
}

// Whoever calls CloseWith first ends the closing handshake, also one that others have begun.
func TestEndingLead(t *testing.T) {
	var e ending
	e.begin(endingByUs, true)
	if !e.lead() {
		t.Error("the first does not lead")
	}
	if e.lead() {
		t.Error("two lead")
	}
}

func TestEndingLate(t *testing.T) {
	var e ending
	if e.isLate() {
		t.Error("late from the beginning")
	}
	if e.expire(); !e.isLate() {
		t.Error("not late")
	}
}
