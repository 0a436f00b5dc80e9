//go:build !race

package websocket

import "sync"

// A mutex is the lock of a Conn. Functions whose names end in Locked are called while it is
// held. Builds with -race check that, and the others do not.
type mutex struct{ sync.Mutex }

func (m *mutex) assertLocked() {}
