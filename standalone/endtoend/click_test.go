package endtoend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/schemas/event"
	"spillway.dev/service/spillwaytest"
)

// visits sends n requests for path from several visitors at once and returns how many were answered with status.
func (s *standalone) visits(n int, path string, status int) int64 {
	var answered, next atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for next.Add(1) <= int64(n) {
				if response, err := s.visit(http.MethodGet, path); err == nil && response.Status == status {
					answered.Add(1)
				}
			}
		})
	}
	wait.Wait()
	return answered.Load()
}

func (s *standalone) counted(p profile, views, clicks int64) insights {
	s.t.Helper()
	var i insights
	s.eventually(fmt.Sprintf("%d views and %d clicks are counted", views, clicks), func() error {
		i = s.insights(p)
		var viewed, clicked int64
		for _, point := range i.Series {
			viewed += point.Views
			clicked += point.Clicks
		}
		if i.Lifetime.Views != views || i.Lifetime.Clicks != clicks || viewed != views || clicked != clicks {
			return fmt.Errorf("lifetime %d views, %d clicks; series %d, %d", i.Lifetime.Views, i.Lifetime.Clicks, viewed, clicked)
		}
		return nil
	})
	return i
}

func (s *standalone) audit() (missing, doubled int64) {
	s.t.Helper()
	out, err := s.command("audit", "--json").Output()
	var failed *exec.ExitError
	if err != nil {
		require.ErrorAs(s.t, err, &failed)
	}
	var report struct {
		Streams []struct {
			Stream  string `json:"stream"`
			Missing int64  `json:"missing"`
			Doubled int64  `json:"doubled"`
		} `json:"streams"`
		Missing int64 `json:"missing"`
		Doubled int64 `json:"doubled"`
	}
	require.NoError(s.t, json.Unmarshal(out, &report), "%s", out)
	require.NotEmpty(s.t, report.Streams)
	require.Equal(s.t, report.Missing+report.Doubled == 0, err == nil, "exit status and report agree: %v\n%s", err, out)
	return report.Missing, report.Doubled
}

func TestTheWayOfOneClick(t *testing.T) {
	s := newStandalone(t)
	s.start()

	var p profile
	s.api("POST", "/v1/profiles", map[string]string{"handle": "ada", "title": "Ada Lovelace"}, &p, http.StatusCreated)
	var links []link
	for i := range 3 {
		var l link
		s.api("POST", "/v1/profiles/"+p.ID+"/links", map[string]string{"title": fmt.Sprintf("Link %d", i), "url": fmt.Sprintf("https://example.com/%d", i)}, &l, http.StatusCreated)
		require.Equal(t, s.URL(spillwaytest.Visitors, "/l/"+l.Code), l.Tracked)
		links = append(links, l)
	}

	s.eventually("the page is there", func() error {
		response, err := s.visit(http.MethodGet, "/ada")
		if err == nil && response.Status != http.StatusOK {
			err = fmt.Errorf("status %d", response.Status)
		}
		return err
	})
	require.EqualValues(t, 499, s.visits(499, "/ada", http.StatusOK))
	for i, l := range links {
		response, err := s.visit(http.MethodGet, "/l/"+l.Code)
		require.NoError(t, err)
		require.Equal(t, http.StatusFound, response.Status)
		require.Equal(t, fmt.Sprintf("https://example.com/%d", i), response.Header.Get("Location"))
		require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"))
	}
	require.EqualValues(t, 597, s.visits(597, "/l/"+links[0].Code, http.StatusFound))
	require.EqualValues(t, 400, s.visits(400, "/l/"+links[1].Code, http.StatusFound))
	i := s.counted(p, 500, 1000)
	require.InDelta(t, 2.0, *i.Lifetime.CTR, 1e-9, "a rate above 100 % is not clamped")
	perLink := map[string]int64{}
	for _, l := range i.Links {
		perLink[l.ID] = l.Clicks
	}
	require.Equal(t, map[string]int64{links[0].ID: 598, links[1].ID: 401, links[2].ID: 1}, perLink)

	t.Run("a changed target reaches the visitor", func(t *testing.T) {
		s.api("PATCH", "/v1/profiles/"+p.ID+"/links/"+links[2].ID, map[string]string{"url": "https://example.org/new"}, nil, http.StatusOK)
		s.eventually("the redirect follows", func() error {
			// HEAD asks without being counted as a click.
			response, err := s.visit(http.MethodHead, "/l/"+links[2].Code)
			if err != nil {
				return err
			}
			if got := response.Header.Get("Location"); got != "https://example.org/new" {
				return fmt.Errorf("still %s", got)
			}
			return nil
		})
	})

	t.Run("each engine can be read by its own clients", func(t *testing.T) {
		addresses := s.addresses()
		response, err := http.Post(addresses.ClickHouse, "text/plain", nil)
		require.NoError(t, err)
		response.Body.Close()
		u, err := url.Parse(addresses.ClickHouse)
		require.NoError(t, err)
		u.Path = "/"
		u.RawQuery = url.Values{"query": {"SELECT kind, count() FROM spillway.events WHERE class = 'person' GROUP BY kind ORDER BY kind FORMAT TSV"}}.Encode()
		response, err = http.Get(u.String())
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		require.NoError(t, err)
		require.Equal(t, "view\t500\nclick\t1000\n", string(body))

		connection, err := pgx.Connect(t.Context(), addresses.Database)
		require.NoError(t, err)
		defer connection.Close(context.Background())
		var views, clicks int64
		require.NoError(t, connection.QueryRow(t.Context(), "SELECT views, clicks FROM profile_counters WHERE profile_id = $1 AND class = 'person'", p.ID).Scan(&views, &clicks))
		require.Equal(t, []int64{500, 1000}, []int64{views, clicks})

		client, err := kgo.NewClient(kgo.SeedBrokers(addresses.Kafka...), kgo.ConsumeTopics("spillway.events"))
		require.NoError(t, err)
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), spillwaytest.Patience)
		defer cancel()
		names := map[string]bool{}
		for len(names) < 1500 {
			fetches := client.PollFetches(ctx)
			require.NoError(t, ctx.Err(), "only %d events in Kafka", len(names))
			fetches.EachRecord(func(r *kgo.Record) {
				batch, err := event.ParseBatch(r.Value)
				require.NoError(t, err)
				batch.Events(func(sequence uint64, _ []byte) bool {
					names[fmt.Sprint(batch.Stream, r.Partition, sequence)] = true
					return true
				})
			})
		}
	})

	missing, doubled := s.audit()
	require.Zero(t, missing)
	require.Zero(t, doubled)
	require.Zero(t, s.interrupt(), "Ctrl-C is a clean end:\n%s", s.Output())
}

func TestKillNineOfTheTreeLosesAndDoublesNothing(t *testing.T) {
	s := newStandalone(t)
	s.start()
	var p profile
	s.api("POST", "/v1/profiles", map[string]string{"handle": "grace", "title": "Grace Hopper"}, &p, http.StatusCreated)
	var l link
	s.api("POST", "/v1/profiles/"+p.ID+"/links", map[string]string{"title": "Nanoseconds", "url": "https://example.com/ns"}, &l, http.StatusCreated)
	s.eventually("the link is there", func() error {
		response, err := s.visit(http.MethodHead, "/l/"+l.Code)
		if err == nil {
			if response.Status != http.StatusFound {
				err = fmt.Errorf("status %d", response.Status)
			}
		}
		return err
	})

	var clicks int64
	for range 2 {
		// Killed in the middle of the load: what was answered before counts, what was not may or may not.
		answered := make(chan int64)
		go func() { answered <- s.visits(600, "/l/"+l.Code, http.StatusFound) }()
		time.Sleep(150 * time.Millisecond)
		children := s.children()
		require.NotEmpty(t, children)
		s.Kill()
		clicks += <-answered
		s.eventually("no child outlives its parent", func() error {
			for _, pid := range children {
				if running(pid) {
					return fmt.Errorf("process %d is still there", pid)
				}
			}
			return nil
		})
		s.start()
	}
	clicks += s.visits(100, "/l/"+l.Code, http.StatusFound)

	// A request that was under way when the process was killed may have been journaled and not answered: at most one a connection
	// and kill. All others are exactly the answered ones.
	var counted int64
	s.eventually("what was answered is counted", func() error {
		if counted = s.insights(p).Lifetime.Clicks; counted < clicks {
			return fmt.Errorf("%d counted, %d answered", counted, clicks)
		}
		return nil
	})
	require.LessOrEqual(t, counted, clicks+2*8)
	s.eventually("the audit agrees", func() error {
		if missing, doubled := s.audit(); missing+doubled != 0 {
			return fmt.Errorf("missing %d, doubled %d", missing, doubled)
		}
		return nil
	})
	require.Zero(t, s.interrupt())
}
