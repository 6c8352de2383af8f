package measure

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Machine describes what the figures were measured on, in one line.
func Machine() string {
	parts := []string{strconv.Itoa(runtime.NumCPU()) + " × " + field("/proc/cpuinfo", "model name", runtime.GOARCH)}
	if mhz, err := strconv.ParseFloat(field("/proc/cpuinfo", "cpu MHz", ""), 64); err == nil {
		parts[0] += fmt.Sprintf(" %.1f GHz", mhz/1000)
	}
	if kilobytes, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal", ""), " kB"), 10, 64); err == nil {
		parts = append(parts, fmt.Sprintf("%.0f GiB", float64(kilobytes)/(1<<20)))
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "Linux "+string(bytes.TrimSpace(release)))
	}
	return strings.Join(append(parts, runtime.Version()), ", ")
}

// Load is the number of threads that wanted a processor in the last minute, on average; empty where the kernel does not say.
// Above the number of processors, others were at work too.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// field returns a value of a file of lines "name : value".
func field(file, name, otherwise string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return otherwise
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return otherwise
}
