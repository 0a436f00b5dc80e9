//go:build race

package websocket

import "sync"

// A mutex is the lock of a Conn; see lock.go.
type mutex struct{ sync.Mutex }

// assertLocked panics if nobody holds the lock. It cannot tell who does.
func (m *mutex) assertLocked() {
	if m.TryLock() {
		panic("websocket: the lock of a Conn is not held")
	}
}
