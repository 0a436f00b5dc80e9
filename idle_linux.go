// Connections that wait for input without a goroutine, in an epoll of their Server.

package websocket

import (
	"os"
	"sync"
	"syscall"
	"time"
)

// Idlers wait in an epoll until there is input, an end or an error, and go on in a new goroutine
// each. That takes 24 bytes here, where a goroutine that waits takes 2.5 KB.
//
// An idler is awake or waits. While it is awake a goroutine has it, which alone may have it wait,
// as the last thing that it does. While it waits nobody reads; all else goes on as ever, and does
// not come here. A wait is ended by whoever is first, under mu, to find its number in its slot and
// to take it out, and only who has taken it out has the idler go on: so it does once. These are:
//
//   - An event. It comes once for each wait (EPOLLONESHOT), and for a state, not a change of it, so
//     that input which was there before counts. It bears the slot and the number of the wait: if it
//     is late, as the wait has been ended, its number is not that of the slot, even if slot or
//     descriptor have been given to somebody else.
//   - wake, for a read deadline: that is to be kept by a read.
//   - leave, which is called before the descriptor is closed. It also takes that out of the epoll,
//     where a copy of it would keep it, and at the end lets no wait begin any more: who was about
//     to, goes on and finds the end by reading.
//
// A closing handshake, also that of Shutdown, ends no wait: the answer is input, and the time
// limit closes the descriptor. The epoll itself is waited on in that of the runtime, by a goroutine
// that is there while the epoll has somebody, and takes no thread.
type idlers struct {
	mu     sync.Mutex
	epoll  *os.File   // or nil: nobody has waited yet
	fd     int        // its descriptor
	runs   bool       // there is a goroutine
	slots  []idleSlot // those that are or were in it
	free   int32      // the first slot that is free, and 1
	n      int        // how many slots are not
	number uint32     // of the last wait
}

// An idleSlot is the place of an idler, which it keeps until it leaves.
type idleSlot struct {
	who    idler
	number uint32 // of its wait, or 0: it is awake
	next   int32  // the next slot that is free, and 1
}

// An idler is what waits.
type idler interface {
	napping() *nap
	control(f func(fd uintptr)) error // calls f, unless the descriptor is closed
	goOn()                            // what goes on after the wait, in a goroutine of its own
}

// A nap says where an idler has its slot. The lock of its idlers guards it.
type nap struct {
	slot int32 // its index and 1, or 0 if it has not waited yet
	over bool  // it has left
}

// canIdle reports whether sockets can wait so.
const canIdle = true

// wait has w go on when there is input, and reports whether it waits: then w is not the caller's.
func (p *idlers) wait(w idler) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := w.napping()
	if n.over || p.n == 0 && !p.start() {
		return false
	}
	op := syscall.EPOLL_CTL_MOD
	if n.slot == 0 {
		op = syscall.EPOLL_CTL_ADD
		p.add(w)
	}
	p.number = max(1, p.number+1)
	e := syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT,
		Fd:     n.slot - 1, Pad: int32(p.number),
	}
	var err error
	if closed := w.control(func(fd uintptr) { err = syscall.EpollCtl(p.fd, op, int(fd), &e) }); closed != nil || err != nil {
		if op == syscall.EPOLL_CTL_ADD {
			p.remove(n)
		}
		return false
	}
	p.slots[n.slot-1].number = p.number
	return true
}

// wake has w go on if it waits.
func (p *idlers) wake(w idler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rouse(w)
}

// leave is wake, and takes w out of the epoll: for good, or until it has another descriptor.
func (p *idlers) leave(w idler, forGood bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rouse(w)
	n := w.napping()
	n.over = forGood
	if n.slot > 0 {
		w.control(func(fd uintptr) { syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_DEL, int(fd), nil) })
		p.remove(n)
	}
}

// rouse is wake. mu is held.
func (p *idlers) rouse(w idler) {
	if n := w.napping(); n.slot > 0 && p.take(n.slot-1, p.slots[n.slot-1].number) {
		go w.goOn()
	}
}

// waits reports whether w waits.
func (p *idlers) waits(w idler) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := w.napping()
	return n.slot > 0 && p.slots[n.slot-1].number != 0
}

// take ends the wait of that number, and reports whether there was one. mu is held.
func (p *idlers) take(slot int32, number uint32) bool {
	if number == 0 || int(slot) >= len(p.slots) || p.slots[slot].number != number {
		return false
	}
	p.slots[slot].number = 0
	return true
}

// add gives w a slot. mu is held.
func (p *idlers) add(w idler) {
	if p.free == 0 {
		p.slots, p.free = append(p.slots, idleSlot{}), int32(len(p.slots)+1)
	}
	n := w.napping()
	n.slot = p.free
	s := &p.slots[n.slot-1]
	p.free, *s = s.next, idleSlot{who: w}
	p.n++
}

// remove takes a slot back, and after the last one ends the goroutine. The epoll is kept for the
// next, as clients may come and go one at a time. mu is held.
func (p *idlers) remove(n *nap) {
	p.slots[n.slot-1] = idleSlot{next: p.free}
	p.free, n.slot = n.slot, 0
	if p.n--; p.n == 0 {
		p.slots, p.free = nil, 0
		p.epoll.SetReadDeadline(time.Unix(1, 0))
	}
}

// start sees to it that there is an epoll and a goroutine for it, and reports whether there are. mu
// is held.
func (p *idlers) start() bool {
	if p.epoll == nil {
		p.fd, _ = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		syscall.SetNonblock(p.fd, true)              // or else it has no deadline
		p.epoll = os.NewFile(uintptr(p.fd), "epoll") // or nil
	}
	ok := p.epoll.SetReadDeadline(time.Time{}) == nil
	if ok && !p.runs {
		p.runs = true
		go p.run()
	}
	return ok
}

// run has those go on for which there is an event, until nobody is left.
func (p *idlers) run() {
	raw, _ := p.epoll.SyscallConn()
	events := make([]syscall.EpollEvent, 128)
	n := 0
	ask := func(fd uintptr) bool {
		n, _ = syscall.EpollWait(int(fd), events, 0) // again, if a signal interrupts it
		return n != 0
	}
	for runs := true; runs; n = 0 {
		raw.Read(ask)
		p.mu.Lock()
		for _, e := range events[:max(0, n)] {
			if p.take(e.Fd, uint32(e.Pad)) {
				go p.slots[e.Fd].who.goOn()
			}
		}
		runs = p.n > 0
		p.runs = runs
		p.mu.Unlock()
	}
}
