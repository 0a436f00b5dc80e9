//go:build !linux

package main

import (
	"errors"
	"runtime"
	"time"
)

// canMeasure says that processor time and resident memory are not known on this system.
const canMeasure = false

func cpuTime() time.Duration { return 0 }

func resident() int64 { return 0 }

func freeMemory() int64 { return 0 }

func writeCalls() int64 { return 0 }

func allowFiles(uint64) error { return nil }

func processors() (server, load int, err error) {
	return 0, 0, errors.New("processes cannot be pinned on " + runtime.GOOS)
}

func pin(int) (undo func(), err error) { return nil, errors.ErrUnsupported }

func machine() string { return runtime.GOOS }
