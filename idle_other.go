//go:build !linux

package websocket

import (
	"io"
	"net"
	"syscall"
)

// Elsewhere connections wait for input in their goroutines.
type (
	idlers struct{}
	idler  any
	nap    struct{}
)

const canIdle = false

func (*idlers) wait(idler) bool   { return false }
func (*idlers) waits(idler) bool  { return false }
func (*idlers) wake(idler)        {}
func (*idlers) leave(idler, bool) {}

// A TCP connection stays in the poller.
func newSocket(*net.TCPConn, syscall.RawConn) io.ReadWriter { return nil }

func writev(uintptr, []byte, []byte) (int, error) { panic("websocket: no pollable") }
