package websocket

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A lookedAtTest is watched, and says when it is to be looked at again.
type lookedAtTest struct {
	spot  place
	due   uint32 // when it has to be looked at
	ended bool   // it must not be looked at any more
	looks int
	f     func(now uint32) (due uint32, more bool)
}

func (w *lookedAtTest) place() *place { return &w.spot }

func (w *lookedAtTest) look(now uint32) (due uint32, more bool) { w.looks++; return w.f(now) }

// What is watched is looked at when it is due, and not at any other tick.
func TestClock(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const interval = ticks * time.Second
			rnd := rand.New(rand.NewPCG(seed, 0))
			var k clock
			var all []*lookedAtTest
			var mu sync.Mutex // held while all of it is used
			forget := func(w *lookedAtTest) {
				w.ended = true
				k.forget(w)
			}
			var add func()
			add = func() {
				w := &lookedAtTest{}
				w.f = func(now uint32) (uint32, bool) {
					mu.Lock()
					defer mu.Unlock()
					if w.ended || now != w.due {
						t.Fatalf("looked at at %d, due at %d, ended: %t", now, w.due, w.ended)
					}
					switch rnd.IntN(20) {
					case 0:
						forget(w)
					case 1:
						w.ended = true
						return 0, false
					case 2:
						forget(all[rnd.IntN(len(all))])
					case 3:
						if len(all) < 2000 {
							add()
						}
					}
					w.due = now + 1 + rnd.Uint32N(ticks)
					return w.due, true
				}
				w.due = k.now.Load() + ticks
				all = append(all, w)
				k.watch(w, interval)
			}
			k.now.Store(^uint32(0) - 50) // it may go around
			for range 100 {
				add()
			}
			for range 200 {
				time.Sleep(time.Second)
				synctest.Wait()
				mu.Lock()
				left := 0
				for _, w := range all {
					if !w.ended {
						left++
						if w.due-k.now.Load() > ticks || w.due == k.now.Load() {
							t.Fatalf("due at %d, and it is %d", w.due, k.now.Load())
						}
					}
				}
				if left != k.n {
					t.Fatalf("%d are watched, want %d", k.n, left)
				}
				mu.Unlock()
			}
			for _, w := range all {
				forget(w)
				forget(w)
			}
			now := k.now.Load()
			time.Sleep(10 * interval)
			if k.now.Load() != now || k.n != 0 {
				t.Error("the clock ticks for nobody")
			}
			add()
			time.Sleep(interval)
			synctest.Wait()
			if w := all[len(all)-1]; w.looks != 1 {
				t.Errorf("it ticks again, and was seen to look %d times", w.looks)
			}
			for _, w := range all {
				forget(w)
			}
		})
	}
}

// A connection that is always busy is looked at about once in an interval: work is in proportion to
// what is due.
func TestServingDue(t *testing.T) {
	var s serving
	k := new(clock)
	s.beginWatch(k, false)
	looks, due := 0, uint32(ticks)
	for now := uint32(1); now <= 100*ticks; now++ {
		if now != due {
			continue
		}
		looks++
		var ping bool
		var err error
		if ping, due, err = s.judge(view{now: now, heard: now - 1, sent: now - 1, listens: true}); ping || err != nil {
			t.Fatal("a busy connection is pinged, or ended: ", err)
		}
	}
	if looks > 108 {
		t.Errorf("%d looks in 100 intervals", looks)
	}
}

// The clock may go on while it looks at connections. What is heard and sent meanwhile comes after
// the tick.
func TestServingAhead(t *testing.T) {
	var s serving
	s.beginWatch(new(clock), false)
	for _, v := range []view{
		{now: ticks, heard: ticks + 1, sent: ticks, listens: true},
		{now: ticks, heard: ticks, sent: ticks + 1, listens: true},
		{now: ticks, heard: ticks + 2, sent: ticks + 1, listens: true},
	} {
		if ping, due, err := s.judge(v); ping || err != nil || due != v.now+ticks {
			t.Errorf("%+v: ping: %t, due at %d, %v", v, ping, due, err)
		}
	}
}

// What is hastened is looked at as soon as that, or at its time if that is sooner.
func TestClockHasten(t *testing.T) {
	for before := range uint32(ticks) { // how far the clock has come when it is put on
		for after := range uint32(ticks) {
			for soon := uint32(1); soon < 4; soon++ {
				var k clock
				k.now.Store(before)
				var looks []uint32
				w := &lookedAtTest{f: func(now uint32) (uint32, bool) { looks = append(looks, now); return now + ticks, true }}
				k.watch(w, time.Hour)
				for range after {
					k.run()
				}
				k.hasten(w, soon)
				for range ticks {
					k.run()
				}
				want := before + min(ticks, after+soon)
				if looks[0] != want {
					t.Fatalf("put on at %d and hastened at %d by %d, it was looked at at %d, not %d", before, before+after, soon, looks[0], want)
				}
				k.forget(w)
			}
		}
	}
}
