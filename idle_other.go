//go:build !linux

package websocket

// Elsewhere connections wait for input in their goroutines.
type (
	idlers struct{}
	idler  any
	nap    struct{}
)

const canIdle = false

func (*idlers) wait(idler) bool  { return false }
func (*idlers) waits(idler) bool { return false }
func (*idlers) wake(idler)       {}
func (*idlers) leave(idler)      {}
