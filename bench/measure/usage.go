// Package measure says what things cost, in a way that can be trusted on a machine that others use too: CPU from the kernel's own
// accounting instead of the clock, rounds that alternate between the two things that are compared, and their ratio pair by pair.
package measure

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// CPU is processor time that processes have used since they began: in user mode, and in the kernel on their behalf.
type CPU struct{ User, System time.Duration }

// Total is both together. The kernel knows it to the nanosecond and reports it in steps of 10 ms.
func (c CPU) Total() time.Duration { return c.User + c.System }

// Minus is what was used since before.
func (c CPU) Minus(before CPU) CPU { return CPU{c.User - before.User, c.System - before.System} }

// Plus adds what others used.
func (c CPU) Plus(other CPU) CPU { return CPU{c.User + other.User, c.System + other.System} }

// Used returns the CPU of the processes and of all their living descendants, ended threads included (proc(5), fields 14 and 15 of stat).
func Used(ids ...int) (CPU, error) {
	stats, err := processes()
	if err != nil {
		return CPU{}, err
	}
	var sum CPU
	for _, id := range ids {
		if _, ok := stats[id]; !ok {
			return CPU{}, fmt.Errorf("CPU of process %d: it has ended", id)
		}
		sum = sum.Plus(used(stats, id))
	}
	return sum, nil
}

type stat struct {
	parent int
	cpu    CPU
}

func used(all map[int]stat, id int) CPU {
	sum := all[id].cpu
	for child, s := range all {
		if s.parent == id {
			sum = sum.Plus(used(all, child))
		}
	}
	return sum
}

func processes() (map[int]stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("the kernel's accounting needs Linux: %w", err)
	}
	all := map[int]stat{}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it has ended since
		}
		if s, err := parseStat(text); err == nil {
			all[id] = s
		}
	}
	return all, nil
}

// parseStat reads "pid (name) state parent …"; the name may hold anything.
func parseStat(text []byte) (stat, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return stat{}, fmt.Errorf("%q is not what proc(5) says of stat", text)
	}
	var n [3]int
	for i, at := range []int{1, 11, 12} {
		var err error
		if n[i], err = strconv.Atoi(string(fields[at])); err != nil {
			return stat{}, fmt.Errorf("%q is not what proc(5) says of stat: %w", text, err)
		}
	}
	return stat{parent: n[0], cpu: CPU{time.Duration(n[1]) * tick, time.Duration(n[2]) * tick}}, nil
}

// Resident returns the bytes of memory that a process holds (VmRSS), and how many of them are its own (RssAnon), not a file's.
func Resident(id int) (all, own int64, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(id), "status"))
	if err != nil {
		return 0, 0, fmt.Errorf("memory of process %d: %w", id, err)
	}
	for line := range bytes.Lines(text) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		into := map[string]*int64{"VmRSS": &all, "RssAnon": &own}[string(name)]
		if into == nil {
			continue
		}
		kilobytes, err := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(value), []byte(" kB"))), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("memory of process %d: %w", id, err)
		}
		*into = kilobytes << 10
	}
	return all, own, nil
}
