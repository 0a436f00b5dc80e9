// The errors that several files return, and that of an opening handshake.

package websocket

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
)

var (
	errNotUTF8    = misuse("text is not valid UTF-8")
	errServed     = misuse("Serve reads from this connection")
	errUnfinished = misuse("the opening handshake is not finished")
	errShaken     = misuse("the opening handshake is over")
	errBusy       = misuse("use of a writer by two goroutines")
	errNoConn     = misuse("the *Conn is nil")
	errStale      = error(&callError{"use of a reader or writer after the end of its message", os.ErrClosed})
	errRest       = fmt.Errorf("websocket: at rest: %w", os.ErrDeadlineExceeded)
	errEnded      = errors.New("websocket: reads have ended")
	errPanic      = errors.New("websocket: the transport has panicked")

	errSilent   = fmt.Errorf("websocket: the peer does not answer: %w", os.ErrDeadlineExceeded)
	errStalled  = fmt.Errorf("websocket: the peer does not read: %w", os.ErrDeadlineExceeded)
	errUnclosed = fmt.Errorf("websocket: a message that NextWriter began is not closed: %w", os.ErrDeadlineExceeded)
	errSlow     = errors.New("websocket: too many messages wait to be read")
)

// A callError is the error of a call that is wrong, or comes at the wrong time. It is an error of
// package os, too, whose own text does not fit.
type callError struct {
	text string
	is   error
}

func (e *callError) Error() string { return "websocket: " + e.text }
func (e *callError) Unwrap() error { return e.is }

// misuse returns the error of a call that is wrong.
func misuse(format string, args ...any) error {
	return &callError{fmt.Sprintf(format, args...), os.ErrInvalid}
}

// A timeoutError is the error of a write whose deadline has passed.
type timeoutError string

const (
	errUnsent  timeoutError = "the write deadline has passed, and nothing was sent"
	errSending timeoutError = "the write deadline has passed while the message was sent"
)

func (e timeoutError) Error() string        { return "websocket: " + string(e) }
func (e timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }
func (e timeoutError) Timeout() bool        { return true }
func (e timeoutError) Temporary() bool      { return true }

// A finalError is a timeout that has ended all writes. It does not look like one, as a program
// would try again.
type finalError struct{ error }

// A HandshakeError says why an opening handshake failed.
type HandshakeError struct {
	// Status is an HTTP status: for PutRefusal, or what a server has refused a client with. It
	// is 502, bad gateway, if the server has accepted in a way that is not allowed.
	Status int

	Field  string // the header field that caused the error, or empty
	Reason string // what was wrong; safe to send to the client

	// Header has fields that PutRefusal sends, such as Location for a redirect.
	Header http.Header

	// Response is what a client has got from a server that refused it, with up to
	// 4 KiB of the body, which need not be closed. Otherwise it is nil.
	Response *http.Response

	err error
}

// Error returns the reason, and the error behind e if there is one.
func (e *HandshakeError) Error() string {
	s := "websocket: opening handshake failed: " + e.Reason
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns the error behind e, such as [os.ErrDeadlineExceeded] for a
// client that did not finish its handshake in time, or nil.
func (e *HandshakeError) Unwrap() error { return e.err }

// badRequest returns an error for a client that is to blame.
func badRequest(field, reason string) *HandshakeError {
	if field != "" {
		reason = field + " " + reason
	}
	return &HandshakeError{Status: http.StatusBadRequest, Field: field, Reason: reason}
}

// isTimeout reports whether a read that failed with err can go on later.
func isTimeout(err error) bool {
	if _, ok := err.(*HandshakeError); ok {
		return false
	}
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
