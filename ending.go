// How far a connection has come on its way from the opening handshake to the end: a state
// machine without a connection, a goroutine or a clock.

package websocket

import (
	"cmp"
	"errors"
	"net"
)

// A phase says how far a connection has come.
//
//	open ⇄ connecting      the opening handshake is read, and accepted
//	open → closing         this side has sent a close frame and waits for the peer's
//	open, closing → ended  nothing that may still come matters
//	any → shut → closed    the transport is being closed, and has been
//
// A new Conn is open, as the handshake may have been done elsewhere.
type phase byte

const (
	phaseOpen phase = iota
	phaseConnecting
	phaseClosing
	phaseEnded
	phaseShut
	phaseClosed
)

// An ending decides how a connection ends, and which error callers see. The lock of its Conn
// guards it. Reads and writes may fail for different reasons; each keeps its first.
type ending struct {
	phase    phase
	unopened bool // the transport was closed before the opening handshake was over
	led      bool // a call of CloseWith ends the closing handshake
	asked    bool // this side has sent a close frame before the peer's came
	late     bool // the closing handshake has taken too long

	errs *endErrors // or nil: there are none yet
}

// endErrors are the errors of a connection that is about to end.
type endErrors struct {
	read   error // of every later read
	write  error // of every later write
	broken error // of a write to the transport: none may follow
	last   error // what the input ended with, as it was found there
}

// noErrors are those of most connections, most of the time.
var noErrors = new(endErrors)

// errors returns the errors, which are not to be changed.
func (e *ending) errors() *endErrors {
	if e.errs == nil {
		return noErrors
	}
	return e.errs
}

// makeErrors returns the errors, to be changed. It makes them if there are none.
func (e *ending) makeErrors() *endErrors {
	if e.errs == nil {
		e.errs = new(endErrors)
	}
	return e.errs
}

// connect notes that the opening handshake is being read.
func (e *ending) connect() {
	if e.phase == phaseOpen {
		e.phase = phaseConnecting
	}
}

// accept ends the opening handshake.
func (e *ending) accept() {
	if e.phase == phaseConnecting {
		e.phase = phaseOpen
	}
}

func (e *ending) isConnecting() bool { return e.phase == phaseConnecting }

// isUnopened reports whether the opening handshake has begun and is not over, nor ever will be if
// the transport is closed.
func (e *ending) isUnopened() bool { return e.isConnecting() || e.unopened }

// isShut reports whether the transport is being closed, or has been.
func (e *ending) isShut() bool { return e.phase >= phaseShut }

// isClosed reports whether it has been.
func (e *ending) isClosed() bool { return e.phase == phaseClosed }

// isOver reports whether nothing that may still come matters.
func (e *ending) isOver() bool { return e.lastInput() != nil }

// readable returns the error of every later read, or nil.
func (e *ending) readable() error { return e.errors().read }

// writable returns the error of a write, if none can succeed.
func (e *ending) writable() error {
	err := e.errors().write
	if err == nil && e.phase == phaseConnecting {
		return errUnfinished
	}
	return err
}

// sends reports whether writes have not failed yet, though they may have to wait.
func (e *ending) sends() bool { return e.errors().write == nil }

// failed returns the error of the transport that keeps anything more from being written.
func (e *ending) failed() error { return e.errors().broken }

// stopReads makes err the error of all later reads, and reports whether it is the first.
func (e *ending) stopReads(err error) bool {
	if e.readable() != nil {
		return false
	}
	e.makeErrors().read = err
	return true
}

// stopWrites makes err the error of all later writes, if it is the first. It reports whether a
// close frame can be sent before.
func (e *ending) stopWrites(err error) bool {
	sendable := e.writable() == nil
	e.endWrites(err)
	return sendable
}

// breakWrites notes that the transport has failed to write.
func (e *ending) breakWrites(err error) {
	if isTimeout(err) {
		err = finalError{err}
	}
	e.makeErrors().broken = err
	e.endWrites(err)
}

func (e *ending) endWrites(err error) {
	errs := e.makeErrors()
	errs.write = cmp.Or(errs.write, err)
}

// begin begins a closing handshake from this side, unless framed is false: then no close frame
// can be sent. It reports whether one is to be sent, and whether there is no hope of an answer,
// so that the transport is to be closed. Reads are still to be stopped.
func (e *ending) begin(err *CloseError, framed bool) (send, hopeless bool) {
	_, reset := errors.AsType[*net.OpError](e.readable()) // by the peer, as a rule
	hopeless = e.phase == phaseConnecting || e.failed() != nil || reset || !framed
	e.asked = e.asked || !hopeless && e.writable() == nil && e.readable() == nil
	if e.asked && e.phase == phaseOpen {
		e.phase = phaseClosing
	}
	if hopeless {
		e.endWrites(err)
		return false, true
	}
	return e.stopWrites(err), false
}

// lead lets the caller end the closing handshake, if it is the first that wants to, which lead
// reports. The others have to wait.
func (e *ending) lead() (first bool) {
	first = !e.led
	e.led = true
	return first
}

// awaits reports whether the answer to this side's close frame is to be waited for.
func (e *ending) awaits() bool { return e.asked }

// end notes that nothing more matters that may come, because of err.
func (e *ending) end(err error) {
	if e.phase == phaseOpen || e.phase == phaseClosing {
		e.phase = phaseEnded
	}
	e.makeErrors().last = err
}

// lastInput returns what the input has ended with, or nil.
func (e *ending) lastInput() error { return e.errors().last }

// answered reports whether the peer has sent a close frame.
func (e *ending) answered() bool {
	answer, _ := e.lastInput().(*CloseError)
	return answer != nil && answer.by != byFailure && answer.by != byCut
}

// expire notes that the closing handshake has taken too long.
func (e *ending) expire() { e.late = true }

func (e *ending) isLate() bool { return e.late }

// shut notes that the transport is being closed, so that no write can succeed, and closed that it
// has been.
func (e *ending) shut() {
	e.unopened, e.phase = e.isUnopened(), phaseShut
	e.endWrites(net.ErrClosed)
}

func (e *ending) closed() { e.phase = phaseClosed }
