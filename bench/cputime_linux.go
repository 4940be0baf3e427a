package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the CPU time that a process has used, to the nanosecond.
func cpuTime(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	// The clock of another process, as clock_getcpuclockid(3) makes it.
	const scheduler = 2
	var spent unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &spent); err != nil {
		return 0
	}
	return time.Duration(spent.Nano())
}
