package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"spillway.dev/bench/wire"
)

// diskFaults fill the small file systems that the data is on. They need root, who alone may mount them.
func diskFaults() []Fault {
	full := func(where, expect string, hold time.Duration) Fault {
		return Fault{
			Name: "disk full under " + where, Does: "Not one byte is left on its file system; then there is room again.", Expect: expect,
			Hold: hold, on: limited, Touches: []string{where}, strike: fill(where),
		}
	}
	journal := full("redirector-1", "", 5*time.Second)
	journal.Name = "disk full under a journal"
	journal.Does = "Not one byte is left on its file system, and the broker is away, so that no segment becomes free."
	journal.Expect = "Visitors are redirected all the same; the journal counts and announces what it dropped."
	journal.Loss, journal.Rate, journal.strike = Named, 1500, fillJournal
	broker := full("broker", "Where it ends itself, it is started again.", 4*time.Second)
	return []Fault{
		journal,
		full("clickhouse", "", 5*time.Second),
		full("postgres", "Where it ends itself, it is started again.", 4*time.Second),
		broker,
	}
}

// mountOf is where the small file system of a process's data is.
func (a *arena) mountOf(name string) string {
	if name == "broker" {
		name = "kafka"
	}
	return filepath.Join(a.Dir, name)
}

// full leaves no byte on the file system of dir, and returns what gives them back.
func full(dir string) (func() error, error) {
	name := filepath.Join(dir, "filler")
	file, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("fill disk: %w", err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2 // what does not fit may fit in part
		}
	}
	return func() error { return os.Remove(name) }, nil
}

func fill(name string) strike {
	return func(_ context.Context, a *arena) (func(context.Context) error, error) {
		empty, err := full(a.mountOf(name))
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return errors.Join(empty(), a.start(ctx, name)) }, nil
	}
}

func fillJournal(_ context.Context, a *arena) (func(context.Context) error, error) {
	a.relays("", "broker", (*wire.Relay).Stick)
	empty, err := full(a.mountOf("redirector-1"))
	if err != nil {
		return nil, err
	}
	return func(context.Context) error {
		a.relays("", "broker", (*wire.Relay).Heal)
		return empty()
	}, nil
}
