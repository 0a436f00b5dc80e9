package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// canMeasure says that processor time and resident memory are known on this system.
const canMeasure = true

// cpuTime returns the processor time that this process has used, in user mode and in
// the kernel.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident returns how many bytes of this process are in memory.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// freeMemory returns how many bytes of memory programs can still get, or 0 if that is not known.
func freeMemory() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	_, after, _ := strings.Cut(string(b), "MemAvailable:")
	line, _, _ := strings.Cut(after, " kB\n")
	n, _ := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return n << 10
}

// writeCalls returns how many system calls of this process have written something.
func writeCalls() int64 {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "syscw: ")
	line, _, _ := strings.Cut(after, "\n")
	n, _ := strconv.ParseInt(line, 10, 64)
	return n
}

// allowFiles raises the limit for open files to n, if that can be done. Go itself has
// raised it as far as any program may.
func allowFiles(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur >= n {
		return nil
	}
	limit.Cur, limit.Max = n, max(n, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("a process may not open %d files: %w", n, err)
	}
	return nil
}

// A cpuSet is a set of processors as the kernel has it.
type cpuSet [16]uint64

func (s *cpuSet) has(cpu int) bool {
	return cpu >= 0 && cpu < 64*len(s) && s[cpu/64]&(1<<(cpu%64)) != 0
}

// affinity gets or sets the processors of the calling thread.
func affinity(call uintptr, s *cpuSet) error {
	_, _, errno := syscall.RawSyscall(call, 0, unsafe.Sizeof(*s), uintptr(unsafe.Pointer(s)))
	if errno != 0 {
		return errno
	}
	return nil
}

// processors returns two processors that this process may use, on different cores if
// there are such.
func processors() (server, load int, err error) {
	var s cpuSet
	if err := affinity(syscall.SYS_SCHED_GETAFFINITY, &s); err != nil {
		return 0, 0, err
	}
	var all []int
	for cpu := range 64 * len(s) {
		if s.has(cpu) {
			all = append(all, cpu)
		}
	}
	if len(all) < 2 {
		return 0, 0, fmt.Errorf("there is only one processor")
	}
	core := coreOf(all[0])
	for _, cpu := range all[1:] {
		if other := coreOf(cpu); other == "" || other != core {
			return all[0], cpu, nil
		}
	}
	return all[0], all[1], nil
}

// coreOf returns the list of processors that share a core with cpu.
func coreOf(cpu int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu))
	return string(bytes.TrimSpace(b))
}

// pin has the calling thread, and what it starts, run on one processor, until undo is
// called in the same thread.
func pin(cpu int) (undo func(), err error) {
	var before, one cpuSet
	if cpu < 0 || cpu >= 64*len(one) {
		return nil, fmt.Errorf("there is no processor %d", cpu)
	}
	if err := affinity(syscall.SYS_SCHED_GETAFFINITY, &before); err != nil {
		return nil, err
	}
	one[cpu/64] = 1 << (cpu % 64)
	if err := affinity(syscall.SYS_SCHED_SETAFFINITY, &one); err != nil {
		return nil, fmt.Errorf("processor %d cannot be used: %w", cpu, err)
	}
	return func() { affinity(syscall.SYS_SCHED_SETAFFINITY, &before) }, nil
}

// machine describes the processor and the kernel.
func machine() string {
	model := "unknown processor"
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, Linux %s", model, bytes.TrimSpace(kernel))
}
