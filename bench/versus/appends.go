package versus

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"spillway.dev/bench/measure"
)

// appends runs the journal's own benchmark, which stands next to its code.
func (b *Bench) appends(ctx context.Context) (*Table, error) {
	root := filepath.Dir(filepath.Dir(b.Binary))
	command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkAppend$", "-benchtime", pick(b, "500ms", "200ms"),
		"-count", strconv.Itoa(pick(b, 7, 2)), "./journal")
	command.Dir = filepath.Join(root, "redirector")
	out, err := command.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run the journal's benchmark: %w: %s", err, bytes.TrimSpace(out))
	}
	figures := map[string]measure.Series{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != "ns/op" {
			continue
		}
		name, found := strings.CutPrefix(fields[0], "BenchmarkAppend/")
		if !found {
			continue
		}
		if dash := strings.LastIndexByte(name, '-'); dash > 0 { // how many processors it had
			name = name[:dash]
		}
		ns, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			return nil, fmt.Errorf("run the journal's benchmark: %q: %w", line, err)
		}
		figures[name] = append(figures[name], ns)
	}
	copied := figures["memcpy_of_the_same_bytes"]
	if len(copied) == 0 || len(figures["alone"]) == 0 || len(figures["contended"]) == 0 {
		return nil, fmt.Errorf("run the journal's benchmark: it does not name what is looked for: %s", out)
	}
	return &Table{Title: "An append to the journal", How: "The benchmark in redirector/journal: events appended by one goroutine, and by one on each processor at once, while " +
		"everything is acknowledged a millisecond later; against copying as many bytes into memory.",
		Rows: []Row{
			{What: "append, alone, ns", Ours: figures["alone"].String(), Peer: "memcpy: " + copied.String(), Ratio: figures["alone"].Over(copied)},
			{What: "append, contended, ns", Ours: figures["contended"].String(), Peer: copied.String(), Ratio: figures["contended"].Over(copied)},
		}, Notes: []string{"An append is more than a copy: it encodes the event as protobuf, takes a lock, computes a checksum (which a reader after a crash needs to know what is whole), " +
			"guards against a disk that fails under a mapped page, touches memory that is new to the processor, and publishes the length last."}}, nil
}
