package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"spillway.dev/rollup/completeness"
)

// WriteJSON writes the report as one JSON object. Lists are never null.
func (r Report) WriteJSON(w io.Writer) error {
	for _, list := range []*[]completeness.Holding{&r.HeldBack, &r.Silent, &r.Lost} {
		if *list == nil {
			*list = []completeness.Holding{}
		}
	}
	notNil(&r.Streams)
	notNil(&r.Days)
	notNil(&r.Counters)
	notNil(&r.ListsUnequal)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write audit: %w", err)
	}
	return nil
}

func notNil[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

// maxLines bounds the lines of each part of the table.
const maxLines = 40

// WriteTable writes the report for people: what is off, and the sums.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	line := func(format string, values ...any) { fmt.Fprintf(t, format+"\n", values...) }
	line("events\tjournaled\tstored\tmissing\tdoubled\tdropped\tunreadable\texpired")
	streams := "streams"
	if len(r.Streams) == 1 {
		streams = "stream"
	}
	line("%d %s\t%d\t%d\t%d\t%d\t%d\t%d\t%d", len(r.Streams), streams, r.Journaled, r.Stored, r.Missing, r.Doubled, r.Dropped, r.Unreadable, r.Expired)
	lines := 0
	for _, s := range r.Streams {
		if !s.Off() {
			continue
		}
		if lines++; lines > maxLines {
			continue
		}
		line("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s", s.Stream, s.Journaled, s.Stored, s.Missing, s.Doubled, s.Dropped, s.Unreadable, s.Expired, s.Origin)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write audit: %w", err)
	}
	more(w, lines, "streams")
	lines = 0
	for _, s := range r.Streams {
		for _, gaps := range []struct {
			what string
			list []Gap
		}{{"missing", s.Gaps}, {"doubled", s.Doubles}} {
			for _, g := range gaps.list {
				if lines++; lines <= maxLines {
					fmt.Fprintf(w, "  %s in stream %s, partition %d: %d … %d\n", gaps.what, s.Stream, g.Partition, g.First, g.Last)
				}
			}
		}
	}
	more(w, lines, "gaps")

	fmt.Fprintf(w, "\nclosed days: %d, of which %d differ from their events\n", r.ClosedDays, len(r.Days))
	for i, d := range r.Days {
		if i < maxLines {
			fmt.Fprintf(w, "  %s: %s (%d events, closed with %d, rows add up to %d)\n", d.Day, d.Reason, d.Events, d.Closed, d.Summed)
		}
	}
	more(w, len(r.Days), "days")
	fmt.Fprintf(w, "counters: %d profiles, of whose counters %d differ from ClickHouse; %d lists of links do not add up\n", r.Profiles, r.CountersOff, len(r.ListsUnequal))
	for i, c := range r.Counters {
		if i < maxLines {
			of := fmt.Sprintf("profile %d", c.Profile)
			if c.Link != 0 {
				of = fmt.Sprintf("link %d of profile %d", c.Link, c.Profile)
			}
			fmt.Fprintf(w, "  %s, %s: is %d views, %d clicks, %d visitors; should be %d, %d, %d\n", of, c.Class,
				c.Is.Views, c.Is.Clicks, c.Is.UniqueVisitors, c.Should.Views, c.Should.Clicks, c.Should.UniqueVisitors)
		}
	}
	more(w, r.CountersOff, "counters")
	for i, u := range r.ListsUnequal {
		if i < maxLines {
			fmt.Fprintf(w, "  profile %d, %s: %d clicks, but its links have %d\n", u.Profile, u.Class, u.Clicks, u.Links)
		}
	}

	through := "not known"
	if r.CompleteThrough != nil {
		through = r.CompleteThrough.UTC().Format(time.RFC3339Nano)
	}
	fmt.Fprintf(w, "\ncomplete through %s\n", through)
	for _, list := range []struct {
		what     string
		holdings []completeness.Holding
	}{{"held back by", r.HeldBack}, {"silent", r.Silent}, {"lost", r.Lost}} {
		for i, h := range list.holdings {
			if i < maxLines {
				fmt.Fprintf(w, "  %s: stream %s %s, %s, %d events%s%s\n", list.what, h.Stream, h.Origin, h.Reason, h.Events, moment(" since ", h.Since), moment(" until ", h.Until))
			}
		}
		more(w, len(list.holdings), "streams")
	}
	if r.OK {
		fmt.Fprintln(w, "\nEverything that was answered was counted once.")
	} else {
		fmt.Fprintln(w, "\nSomething is off: see above.")
	}
	return nil
}

func more(w io.Writer, n int, what string) {
	if n > maxLines {
		fmt.Fprintf(w, "  … and %d %s more: --json lists them\n", n-maxLines, what)
	}
}

func moment(before string, t *time.Time) string {
	if t == nil {
		return ""
	}
	return before + t.UTC().Format(time.RFC3339)
}
