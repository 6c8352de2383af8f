package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// processFaults are what befalls processes: killed, stopped and continued, told to end, started again one after another.
func processFaults(session time.Duration) []Fault {
	var all []Fault
	names := []string{"redirector-1", "ingest-1", "rollup-1", "profileapi", "broker", "clickhouse", "postgres"}
	for _, name := range names {
		all = append(all, Fault{
			Name: "kill -9 " + name, Does: "SIGKILL to the process and all that it started; started again a second later.",
			Hold: time.Second, Touches: []string{name}, Random: true, Short: true, strike: kill(name),
		})
	}
	all = append(all,
		Fault{
			Name: "kill -9 of both redirectors, one after the other", Does: "The second is killed when the first serves again.",
			Hold: time.Second, Touches: []string{"redirector-1", "redirector-2"}, strike: inTurn("redirector-1", "redirector-2"),
		},
		Fault{
			Name: "kill -9 of both ingests", Does: "At once; started again a second later.",
			Hold: time.Second, Touches: []string{"ingest-1", "ingest-2"}, Random: true, strike: kill("ingest-1", "ingest-2"),
		},
		Fault{
			Name: "kill -9 of all engines", Does: "Broker, ClickHouse and PostgreSQL at once; started again two seconds later.",
			Expect: "Visitors are answered from the cache meanwhile.",
			Hold:   2 * time.Second, Touches: []string{"broker", "clickhouse", "postgres"}, strike: kill("broker", "clickhouse", "postgres"),
		},
		Fault{
			Name: "kill -9 of a redirector while PostgreSQL is away", Does: "Started again before PostgreSQL is back.",
			Expect: "It serves what it knew, from its snapshot.",
			Hold:   2 * time.Second, Touches: []string{"redirector-1", "postgres"}, strike: restartWithoutPostgres,
		},
	)
	for _, name := range names {
		all = append(all, Fault{
			Name: "SIGTERM " + name, Does: "It ends by itself, or is killed after 30 seconds; started again.",
			Hold: 500 * time.Millisecond, Touches: []string{name}, Random: true, strike: terminate(name),
		})
	}
	zombie := session + 2*time.Second
	all = append(all,
		Fault{
			Name: "zombie ingest", Does: fmt.Sprintf("SIGSTOP for %s, longer than the group's session of %s, then SIGCONT: it wakes up believing that its partitions are its own.", zombie, session),
			Hold: zombie, Touches: []string{"ingest-1"}, Random: true, Short: true, strike: freeze("ingest-1"),
		},
		Fault{
			Name: "two zombie ingests", Does: "Both, half a session apart, so that each wakes up among the other's rows.",
			Hold: zombie, Touches: []string{"ingest-1", "ingest-2"}, strike: zombies,
		},
	)
	for _, f := range []struct {
		name string
		hold time.Duration
	}{{"redirector-1", 3 * time.Second}, {"rollup-1", 4 * time.Second}, {"broker", zombie}, {"clickhouse", zombie}, {"postgres", 3 * time.Second}} {
		all = append(all, Fault{
			Name: "SIGSTOP " + f.name, Does: fmt.Sprintf("It stands still for %s, with all that it started.", f.hold),
			Hold: f.hold, Touches: []string{f.name}, Random: true, strike: freeze(f.name),
		})
	}
	return append(all, Fault{
		Name: "rolling restart", Does: "Every service and every engine in turn: SIGTERM, and the next one when it is back.",
		Touches: append([]string{"redirector-2", "ingest-2", "rollup-2"}, names...), strike: rolling(
			"redirector-1", "redirector-2", "ingest-1", "ingest-2", "rollup-1", "rollup-2", "profileapi", "broker", "clickhouse", "postgres",
		),
	})
}

// nodeFaults are what befalls the nodes of a Kafka of three, whose topics ask for two that acknowledge. Of fewer there are none.
func nodeFaults(session time.Duration, nodes int) []Fault {
	if nodes < 3 {
		return nil
	}
	return []Fault{
		{
			Name: "kill -9 broker-2", Does: "One of three nodes; started again three seconds later.", Expect: "The others go on.",
			Hold: 3 * time.Second, Touches: []string{"broker-2"}, Random: true, Short: true, strike: kill("broker-2"),
		},
		{
			Name: "kill -9 of two nodes", Does: "Two of three, so that nothing can be acknowledged; started again three seconds later.",
			Expect: "Journals hold what comes meanwhile.",
			Hold:   3 * time.Second, Touches: []string{"broker", "broker-2", "broker-3"}, Short: true, strike: kill("broker-2", "broker-3"),
		},
		{
			Name: "SIGSTOP broker-3", Does: fmt.Sprintf("It stands still for %s: the others elect leaders for what it led, and it wakes up as one.", session+2*time.Second),
			Hold: session + 2*time.Second, Touches: []string{"broker-3"}, Random: true, strike: freeze("broker-3"),
		},
		{
			Name: "rolling restart of the nodes", Does: "SIGTERM to one after the other, the next when it is back.",
			Touches: []string{"broker", "broker-2", "broker-3"}, strike: rolling("broker", "broker-2", "broker-3"),
		},
	}
}

type strike func(ctx context.Context, a *arena) (func(context.Context) error, error)

func kill(names ...string) strike {
	return func(_ context.Context, a *arena) (func(context.Context) error, error) {
		for _, name := range names {
			a.process(name).Kill()
		}
		return a.starter(names...), nil
	}
}

// starter returns what starts these processes again.
func (a *arena) starter(names ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		var failed []error
		for _, name := range names {
			failed = append(failed, a.start(ctx, name))
		}
		return errors.Join(failed...)
	}
}

func terminate(name string) strike {
	return func(_ context.Context, a *arena) (func(context.Context) error, error) {
		// What a process says as its last word is not the fault's business; that it is killed after so long is.
		if err := a.process(name).Stop(30 * time.Second); err != nil && a.process(name).Running() {
			return nil, err
		} else if err != nil && strings.Contains(err.Error(), "still ran") {
			return a.starter(name), err
		}
		return a.starter(name), nil
	}
}

func freeze(name string) strike {
	return func(_ context.Context, a *arena) (func(context.Context) error, error) {
		p := a.process(name)
		return func(context.Context) error { return p.Signal(syscall.SIGCONT) }, p.Signal(syscall.SIGSTOP)
	}
}

func zombies(ctx context.Context, a *arena) (func(context.Context) error, error) {
	first, second := a.process("ingest-1"), a.process("ingest-2")
	if err := first.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	if err := sleep(ctx, a.session/2); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		err := first.Signal(syscall.SIGCONT)
		return errors.Join(err, sleep(ctx, a.session/2), second.Signal(syscall.SIGCONT))
	}, second.Signal(syscall.SIGSTOP)
}

func inTurn(names ...string) strike {
	return func(ctx context.Context, a *arena) (func(context.Context) error, error) {
		for i, name := range names {
			a.process(name).Kill()
			if i == len(names)-1 {
				return a.starter(name), nil
			}
			if err := a.start(ctx, name); err != nil {
				return nil, err
			}
			if err := a.service(name).Ready(ctx, 30*time.Second); err != nil {
				return nil, err
			}
		}
		return healed, nil
	}
}

func restartWithoutPostgres(ctx context.Context, a *arena) (func(context.Context) error, error) {
	a.process("postgres").Kill()
	a.process("redirector-1").Kill()
	if err := a.start(ctx, "redirector-1"); err != nil {
		return nil, err
	}
	return a.starter("postgres"), nil
}

// rolling restarts processes gently, each when the one before is back.
func rolling(names ...string) strike {
	return func(ctx context.Context, a *arena) (func(context.Context) error, error) {
		for _, name := range names {
			restart, err := terminate(name)(ctx, a)
			if err != nil {
				return nil, err
			}
			if err := restart(ctx); err != nil {
				return nil, err
			}
			if a.Engines()[name] == nil {
				if err := a.service(name).Ready(ctx, 30*time.Second); err != nil {
					return nil, err
				}
			}
		}
		return healed, nil
	}
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
