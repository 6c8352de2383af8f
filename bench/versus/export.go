package versus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/stand"
)

// export writes the same events with `spillway export` and with ClickHouse's own Parquet writer, in turn, and looks how much memory the
// program takes for a table and for one ten times as large.
func (b *Bench) export(ctx context.Context) (*Table, error) {
	s, err := b.stand()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	engine, err := s.Engine(ctx, "clickhouse", stand.Any)
	if err != nil {
		return nil, err
	}
	large := pick(b, 10_000_000, 1_000_000)
	var tables [2]*stand.Columns
	for i, rows := range []int{large / 10, large} {
		if tables[i], err = stand.NewColumns(ctx, engine.Line(), []string{"small", "large"}[i]); err != nil {
			return nil, err
		}
		if err := fillBusy(ctx, tables[i], rows); err != nil {
			return nil, err
		}
		b.Say("%d events made", rows)
	}
	for _, t := range tables {
		if err := t.Do(ctx, "OPTIMIZE TABLE "+t.Database()+".events FINAL"); err != nil {
			return nil, err
		}
		if err := t.Merged(ctx); err != nil {
			return nil, err
		}
	}
	var peaks [2]measure.Series
	for i := range pick(b, 3, 1) {
		for turn := range 2 {
			who := (i + turn) % 2
			p, err := b.published(ctx, s, tables[who], large/[]int{10, 1}[who])
			if err != nil {
				return nil, err
			}
			peaks[who] = append(peaks[who], float64(p.peak)/1e6)
		}
		b.Say("round %d: at most %s MB for %d events, %s MB for %d", i+1, measure.Number(peaks[0][i]), large/10, measure.Number(peaks[1][i]), large)
	}
	var ours, theirs, size, theirSize measure.Series // events/s, bytes an event
	for i := range pick(b, 5, 1) {
		for turn := range 2 {
			if (i+turn)%2 == 0 {
				p, err := b.published(ctx, s, tables[0], large/10)
				if err != nil {
					return nil, err
				}
				ours, size = append(ours, float64(large)/10/p.took.Seconds()), append(size, float64(p.size)*10/float64(large))
				continue
			}
			took, bytes, err := outfile(ctx, tables[0], filepath.Join(s.Dir, "clickhouse.parquet"))
			if err != nil {
				return nil, err
			}
			theirs, theirSize = append(theirs, float64(large)/10/took.Seconds()), append(theirSize, float64(bytes)*10/float64(large))
		}
		b.Say("round %d: %s events/s, ClickHouse %s", i+1, measure.Number(ours[i]), measure.Number(theirs[i]))
	}
	return &Table{Title: "Export", How: fmt.Sprintf("%d events as a platform has them, exported to Parquet by `spillway export`, manifest and checksums included, as a program that is started for it, against ClickHouse's own "+
		"FORMAT Parquet over HTTP into a file: the same columns, order, row groups (122 880 rows), codec and level (zstd 1), both with bloom filters and page indexes, the same disk, flushed. Both use all processors. Memory is the largest resident set that the kernel has seen of the program (VmHWM), "+
		"for those events and for %d, with no limit set.", large/10, large),
		Rows: []Row{
			{What: "events/s", Ours: ours.String(), Peer: "ClickHouse's Parquet: " + theirs.String(), Ratio: ours.Over(theirs), Goal: -0.7},
			{What: "bytes an event", Ours: size.String(), Peer: theirSize.String(), Ratio: size.Over(theirSize)},
			{What: fmt.Sprintf("peak memory, %d events, MB", large), Ours: peaks[1].String(), Peer: fmt.Sprintf("%d events: %s", large/10, peaks[0]), Ratio: peaks[1].Over(peaks[0]), Goal: 1.2},
		}}, nil
}

// publication is what one run of `spillway export` took.
type publication struct {
	took, cpu time.Duration
	size      int64 // of the files
	peak      int64 // of the program's memory
}

// published runs `spillway export` into an empty directory. env is what it finds in its environment beside this process's.
func (b *Bench) published(ctx context.Context, s *stand.Stand, c *stand.Columns, events int, env ...string) (p publication, err error) {
	place := filepath.Join(s.Dir, "export")
	if err := os.RemoveAll(place); err != nil {
		return p, fmt.Errorf("export: %w", err)
	}
	var output bytes.Buffer
	program := exec.CommandContext(ctx, b.Binary, "export", "--data", s.Dir, "--to", place)
	program.Env = append(os.Environ(), "CLICKHOUSE_URL="+c.URL, "GOMEMLIMIT=off", "SPILLWAY_LOG_LEVEL=WARN")
	program.Env = append(program.Env, env...)
	program.Stdout, program.Stderr = &output, &output
	began := time.Now()
	if err := program.Start(); err != nil {
		return p, fmt.Errorf("export: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	for running := true; running; {
		select {
		case err = <-ended:
			p.took, running = time.Since(began), false
		case <-time.After(10 * time.Millisecond):
			// It never falls, so the last look at it is as good as all.
			if now, err := mostResident(program.Process.Pid); err == nil {
				p.peak = now
			}
		}
	}
	if err != nil {
		return p, fmt.Errorf("export: %w: %s", err, strings.TrimSpace(output.String()))
	}
	if said := fmt.Sprintf("%d events", events); !strings.Contains(output.String(), said) {
		return p, fmt.Errorf("export: %q does not say %q", strings.TrimSpace(output.String()), said)
	}
	p.cpu = program.ProcessState.UserTime() + program.ProcessState.SystemTime()
	err = filepath.WalkDir(place, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".parquet") {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			p.size += info.Size()
		}
		return err
	})
	if err != nil {
		return p, fmt.Errorf("size of an export: %w", err)
	}
	return p, nil
}

// mostResident is the most memory that a process has had, in bytes: VmHWM of proc(5).
func mostResident(id int) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(id), "status"))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", id, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("memory of process %d: %w", id, err)
			}
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("memory of process %d: it has ended", id)
}

// outfile has ClickHouse write a table's events as Parquet, and returns how long it took and the file's bytes.
func outfile(ctx context.Context, c *stand.Columns, path string) (took time.Duration, size int64, err error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return 0, 0, fmt.Errorf("ClickHouse's address: %w", err)
	}
	u.Path, u.RawQuery = "/", url.Values{"database": {c.Database()}, "output_format_parquet_row_group_size": {"122880"}, "output_format_parquet_compression_method": {"zstd"},
		"output_format_compression_level": {"1"}}.Encode()
	began := time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader("SELECT * EXCEPT (term) FROM events ORDER BY date, profile_id, time FORMAT Parquet"))
	if err != nil {
		return 0, 0, fmt.Errorf("ask ClickHouse: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, 0, fmt.Errorf("ask ClickHouse: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // its reason, if it can be read
		return 0, 0, fmt.Errorf("ClickHouse writes no Parquet: %s", bytes.TrimSpace(text))
	}
	file, err := os.Create(path)
	if err != nil {
		return 0, 0, fmt.Errorf("write ClickHouse's Parquet: %w", err)
	}
	size, err = io.Copy(file, response.Body)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return 0, 0, fmt.Errorf("write ClickHouse's Parquet: %w", err)
	}
	return time.Since(began), size, nil
}

// fillBusy makes up events as a platform has them: 24 streams and partitions, a few profiles with most of the views, 2 000 user agents, many
// referrers, three days of one month.
func fillBusy(ctx context.Context, c *stand.Columns, rows int) error {
	for p := range 8 {
		if err := c.Do(ctx, fmt.Sprintf("INSERT INTO %s.terms VALUES (%d, %d)", c.Database(), p, term)); err != nil {
			return err
		}
	}
	const step = 500_000
	for first := 0; first < rows; first += step {
		statement := fmt.Sprintf(`INSERT INTO %[1]s.events (stream, partition, sequence, offset, term, time, date, kind, class, reason, rules_version, suspect, profile_id, link_id, visitor, surface, place,
	variant, layout, host, country, language, device, browser, os, user_agent, referrer, referrer_host, channel, utm_source, utm_medium, utm_campaign, utm_term, utm_content)
SELECT 1000003 * (1 + number %% 3) AS stream, intDiv(number, 3) %% 8 AS partition, intDiv(number, 24) + 1 AS sequence, number AS offset, %[2]d AS term,
	toDateTime64('2025-11-18 00:00:00', 6, 'UTC') + toIntervalMicrosecond(toUInt64(number * (86400000000 * 3 / %[5]d)) + rand(1) %% 5000000) AS time, toDate(time) AS date,
	if(rand(2) %% 3 = 0, 'view', 'click') AS kind, if(rand(3) %% 10 = 0, 'bot', 'person') AS class, if(class = 'bot', 'user agent', '') AS reason, 1 AS rules_version,
	rand(4) %% 1000 = 0 AS suspect, 1 + toUInt64(pow(rand(5) / 4294967296.0, 3) * 20000) AS profile_id, if(kind = 'view', 0, profile_id * 20 + rand(6) %% 20) AS link_id,
	cityHash64(rand(7) %% 1500000) AS visitor, 'page' AS surface, ['', '', '', 'bio', 'story'][1 + rand(8) %% 5] AS place, '' AS variant, 3 AS layout, 'spill.example' AS host,
	['US', 'DE', 'GB', 'FR', 'BR', 'IN', 'JP'][1 + rand(9) %% 7] AS country, ['en', 'de', 'fr', 'pt'][1 + rand(10) %% 4] AS language, ['phone', 'desktop', 'tablet'][1 + rand(11) %% 3] AS device,
	['Chrome', 'Safari', 'Firefox'][1 + rand(12) %% 3] AS browser, ['iOS', 'Android', 'Windows'][1 + rand(13) %% 3] AS os,
	concat('Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/', toString(rand(14) %% 2000), '.0 Safari/537.36') AS user_agent,
	['', 'https://www.instagram.example/', 'https://t.example/', 'https://search.example/'][1 + rand(15) %% 4] || if(rand(16) %% 3 = 0, concat('p/', hex(rand(17) %% 100000)), '') AS referrer,
	['', 'www.instagram.example', 't.example', 'search.example'][1 + rand(15) %% 4] AS referrer_host, ['direct', 'social', 'search'][1 + rand(18) %% 3] AS channel,
	['', 'newsletter', 'ig'][1 + rand(19) %% 3] AS utm_source, ['', 'email'][1 + rand(20) %% 2] AS utm_medium, concat('c', toString(rand(21) %% 50)) AS utm_campaign, '' AS utm_term,
	if(rand(22) %% 20 = 0, toString(rand(23) %% 10000), '') AS utm_content
FROM numbers(%[3]d, %[4]d)`, c.Database(), term, first, min(step, rows-first), rows)
		if _, err := c.Ask(ctx, statement, nil); err != nil {
			return fmt.Errorf("make up events: %w", err)
		}
	}
	return nil
}
