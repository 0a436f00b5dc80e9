package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts durations, in classes that are 3% wide.
type histogram struct {
	classes [1920]atomic.Int64
	n       atomic.Int64
}

func (h *histogram) reset() {
	for i := range h.classes {
		h.classes[i].Store(0)
	}
	h.n.Store(0)
}

func (h *histogram) add(d time.Duration) {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-6, 0)
	h.classes[32*shift+int(v>>shift)].Add(1)
	h.n.Add(1)
}

// quantile returns a duration that the part q of all durations does not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	left := int64(q * float64(h.n.Load()))
	for i := range h.classes {
		if left -= h.classes[i].Load(); left < 0 {
			if i < 64 {
				return time.Duration(i)
			}
			shift := i/32 - 1
			return time.Duration((i-32*shift)<<shift + 1<<shift/2)
		}
	}
	return 0
}
