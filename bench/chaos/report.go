package chaos

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// report writes the table of the run as Markdown.
func (c *Chaos) report() error {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# What was broken, and what became of the clicks\n\n")
	p("This page is written by `make chaos`, by the run itself. Do not edit it.\n\n")
	p("Two redirectors, two ingests, two rollups, one profileapi, %s, ClickHouse and PostgreSQL ran as processes of their own; %g visitors a second came, "+
		"open loop, whether or not the ones before them had been answered. Each case is one fault at one moment of a load: as the first visitors come, in the middle, or as the last "+
		"one has come. After each, the load generator's own ledger of answered visits was compared with ClickHouse row by row, PostgreSQL's counters with ClickHouse, "+
		"and `spillway audit` was asked, which knows nothing of the ledger. \"Refused\" are visitors whom neither redirector gave what they wanted.\n\n", c.brokerName(), c.config.Rate)
	p("**%d cases as expected, %d not.** %s, %s; seed %d; on %s.\n\n", c.passed, c.failed,
		c.began.UTC().Format("2006-01-02 15:04 UTC"), time.Since(c.began).Round(time.Second), c.config.Seed, machine())
	if c.unfinished {
		p("**The run was ended before its time: what is not in the tables below was not tried in it.**\n\n")
	}
	p("To repeat it: `make chaos`, or one line of it: `go run ./bench/cmd/chaos%s --only \"FAULT\" --moment MOMENT`.\n", c.flags())
	section := ""
	for i, r := range c.rows {
		if r.section != section {
			section = r.section
			p("\n## %s\n\n| fault | moment | expected | observed | |\n|---|---|---|---|---|\n", section)
		}
		result := "✓"
		if len(r.wrong) > 0 {
			result = "**✗** " + strings.Join(r.wrong, "; ")
		}
		name := "**" + r.fault + "**"
		if r.does != "" {
			name += ": " + r.does
		}
		expected := r.expected
		if i > 0 && c.rows[i-1].fault == r.fault && c.rows[i-1].section == r.section {
			name, expected = "″", "″"
		}
		p("| %s | %s | %s | %s | %s |\n", cell(name), r.moment, cell(expected), cell(r.observed), cell(result))
	}
	if len(c.random) > 0 {
		p("\nWhat struck at random:\n\n```\n%s\n```\n", strings.Join(c.random, "\n"))
	}
	if err := os.WriteFile(c.config.Report, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (c *Chaos) brokerName() string {
	switch c.config.Kafka {
	case 1:
		return "an Apache Kafka of one node"
	case 3:
		return "an Apache Kafka of three nodes"
	}
	return "the embedded broker"
}

func (c *Chaos) flags() string {
	if c.config.Kafka > 0 {
		return " --kafka " + strconv.Itoa(c.config.Kafka)
	}
	return ""
}

func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(text)
}

// machine describes this one: its cores, memory and kernel.
func machine() string {
	text := fmt.Sprintf("%d cores (%s)", runtime.NumCPU(), runtime.GOARCH)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		if fields := strings.Fields(string(info)); len(fields) > 1 {
			if kilobytes, err := strconv.Atoi(fields[1]); err == nil {
				text += fmt.Sprintf(", %d GiB", (kilobytes+1<<19)>>20)
			}
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
		text += ", " + runtime.GOOS + " " + version
	}
	return text
}
