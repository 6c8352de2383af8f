package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"spillway.dev/rollup"
	"spillway.dev/rollup/export"
	"spillway.dev/service/engines"
)

// auditCommand proves from the data alone that every event is there once, in the tables and in an export.
type auditCommand struct {
	toolFlags
	Config rollup.AuditConfig `embed:""`
	Export string             `name:"export" placeholder:"DIR|s3://BUCKET/PREFIX" help:"Also prove it of the export in this place: that its manifests form a chain, that no event is in two cuts, that the listed files are there and ClickHouse has what they publish. With --deep every file is read: its checksum, and that it holds its events, each once."`
}

func (c *auditCommand) Run(ctx context.Context) error {
	_, where, err := c.open()
	if err != nil {
		return err
	}
	return c.audit(ctx, where, os.Stdout)
}

// audit writes to out what it found. It returns an error that wraps rollup.ErrOff if something is off, and another if it could not look.
func (c *auditCommand) audit(ctx context.Context, where engines.Addresses, out io.Writer) error {
	if c.Export == "" {
		return rollup.Audit(ctx, c.Config, where, out)
	}
	var found bytes.Buffer
	off := rollup.Audit(ctx, c.Config, where, &found)
	if off != nil && !errors.Is(off, rollup.ErrOff) {
		return off
	}
	report, err := export.Audit(ctx, c.Export, where, c.Config.Deep)
	if err != nil {
		return err
	}
	if !report.OK() {
		off = errors.Join(off, fmt.Errorf("audit: %w: problems of the export in %s: %d", rollup.ErrOff, report.Place, len(report.Problems)+report.MoreProblems))
	}
	if !c.Config.JSON {
		_, err = fmt.Fprintf(out, "%s\n%s", found.String(), report)
		return errors.Join(off, err)
	}
	// One object of both.
	var both map[string]any
	read := json.NewDecoder(&found)
	read.UseNumber() // offsets and sequences are exact
	if err := read.Decode(&both); err != nil {
		return fmt.Errorf("write an audit: %w", err)
	}
	both["ok"] = off == nil
	both["export"] = struct {
		OK bool `json:"ok"`
		*export.Report
	}{report.OK(), report}
	write := json.NewEncoder(out)
	write.SetIndent("", "  ")
	return errors.Join(off, write.Encode(both))
}
