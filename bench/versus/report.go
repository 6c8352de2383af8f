package versus

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"spillway.dev/bench/measure"
)

// Print writes the table for people at a terminal.
func (t *Table) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s (%s)\n", t.Title, t.Took.Round(time.Second))
	fmt.Fprintln(w, "\tSpillway\tagainst\tratio\tgoal\t")
	for _, r := range t.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.What, r.Ours, r.Peer, r.Ratio, r.Bound(), r.Verdict())
	}
	for _, n := range t.Notes {
		fmt.Fprintln(w, n)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

// Markdown is the page that docs/performance.md is: the machine, and a table for each experiment that was run.
func Markdown(tables []*Table, machine, load string, quick bool) string {
	var b strings.Builder
	b.WriteString(`# Performance

Written by ` + "`make bench`" + `, which runs all of it again; ` + "`make bench ONLY=redirect,ingest`" + ` runs a part. Every figure stands against something that was measured in the same run,
in turn with it, over several rounds: the median, and in brackets the smallest and the largest. CPU is the kernel's account of the processes
(/proc/PID/stat), which other work on the machine disturbs less than it does the clock. A ratio is taken round by round.

`)
	fmt.Fprintf(&b, "Machine: %s. Processors wanted when the run began, on average of a minute: %s.\n", machine, load)
	if quick {
		b.WriteString("\n**A quick run: it shows that the commands work; its figures mean little.**\n")
	}
	var left []string
	for _, e := range Experiments() {
		if !e.Apart && !slices.ContainsFunc(tables, func(t *Table) bool { return t.Name == e.Name }) {
			left = append(left, e.Name)
		}
	}
	if len(left) > 0 {
		fmt.Fprintf(&b, "\n**Not in this run:** %s.\n", strings.Join(left, ", "))
	}
	for _, t := range tables {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", t.Title, wrap(t.How))
		b.WriteString("| | Spillway | against | ratio | goal | |\n|---|---|---|---|---|---|\n")
		for _, r := range t.Rows {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.What, r.Ours, r.Peer, r.Ratio, r.Bound(), r.Verdict())
		}
		for _, n := range t.Notes {
			fmt.Fprintf(&b, "\n%s\n", wrap(n))
		}
		fmt.Fprintf(&b, "\n`bench --only %s`, %s.\n", t.Name, t.Took.Round(time.Second))
	}
	return b.String()
}

// wrap breaks text into lines of the width of the other documents.
func wrap(text string) string {
	const width = 140
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch n := len([]rune(word)); {
		case column == 0:
			column = n
		case column+1+n > width:
			b.WriteByte('\n')
			column = n
		default:
			b.WriteByte(' ')
			column += 1 + n
		}
		b.WriteString(word)
	}
	return b.String()
}

// Missed returns the rows whose goals were missed.
func Missed(tables []*Table) (missed []string) {
	for _, t := range tables {
		for _, r := range t.Rows {
			if r.Verdict() == "missed" {
				missed = append(missed, fmt.Sprintf("%s: %s: %s × (goal %s)", t.Title, r.What, measure.Number(r.Ratio.Median()), r.Bound()))
			}
		}
	}
	return missed
}
