package rollup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/rollup/audit"
	"spillway.dev/rollup/completeness"
	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
	"spillway.dev/service/engines"
)

// AuditConfig says what an audit looks at and how it tells.
type AuditConfig struct {
	JSON       bool          `name:"json" help:"Write one JSON object instead of tables."`
	Deep       bool          `name:"deep" help:"Compute every closed day again and read every stream row by row. Takes as long as closing all days."`
	AcceptLost bool          `name:"accept-lost" help:"Report events that are lost for good (dropped because a journal was full, or unreadable), but do not fail because of them."`
	Patience   time.Duration `name:"patience" default:"5s" help:"How long a counter or closed day that differs is asked again: while events come in, it may be about to be set."`
	Silent     time.Duration `name:"rollup-silent-after" env:"SPILLWAY_ROLLUP_SILENT_AFTER" default:"15m" hidden:""`
	Lost       time.Duration `name:"rollup-lost-after" env:"SPILLWAY_ROLLUP_LOST_AFTER" default:"192h" hidden:""`
}

// ErrOff is wrapped by what Audit returns when something that was answered was not counted once.
var ErrOff = errors.New("something is off")

// Audit looks at everything and writes to out what it found. It returns an error that wraps ErrOff if something is off, and another if it
// could not look.
func Audit(ctx context.Context, config AuditConfig, where engines.Addresses, out io.Writer) error {
	options, layout, err := where.ClickHouseOptions()
	if err != nil {
		return err
	}
	options.ReadTimeout = time.Hour
	columnar, err := clickhouse.Open(options)
	if err != nil {
		return fmt.Errorf("open ClickHouse: %w", err)
	}
	defer columnar.Close()
	pool, err := where.OpenPostgres(ctx, 3)
	if err != nil {
		return err
	}
	defer pool.Close()
	tables := table.New(columnar, layout)
	unseen, err := day.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return err
	}
	closer := day.NewCloser(tables, pool, day.Options{}, unseen, slog.New(slog.DiscardHandler))
	report, err := audit.New(tables, pool, closer, audit.Options{
		Deep: config.Deep, AcceptLost: config.AcceptLost, Patience: config.Patience,
		Completeness: completeness.Options{SilentAfter: config.Silent, LostAfter: config.Lost},
	}).Audit(ctx)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	write := report.WriteTable
	if config.JSON {
		write = report.WriteJSON
	}
	if err := write(out); err != nil {
		return err
	}
	if report.OK {
		return nil
	}
	var what []string
	for _, n := range []struct {
		n    uint64
		name string
	}{
		{report.Missing, "events missing"}, {report.Doubled, "events doubled"}, {report.Dropped, "events dropped"}, {uint64(len(report.Days)), "closed days wrong"},
		{uint64(report.CountersOff), "counters wrong"}, {uint64(len(report.ListsUnequal)), "lists that do not add up"},
	} {
		if n.n > 0 {
			what = append(what, fmt.Sprintf("%s: %d", n.name, n.n))
		}
	}
	return fmt.Errorf("audit: %w: %s", ErrOff, strings.Join(what, ", "))
}
