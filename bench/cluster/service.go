package cluster

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway.dev/bench/process"
	"spillway.dev/bench/wire"
)

// service prepares a service of that name and its relays to the engines that it uses; it is not started yet.
func (c *Cluster) service(name string, usesKafka, usesClickHouse, usesPostgres bool) (*Service, error) {
	kind, _, _ := strings.Cut(name, "-")
	ports, err := c.ports.Find(2)
	if err != nil {
		return nil, err
	}
	address := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	s := &Service{Admin: address(0)}
	env := map[string]string{
		"SPILLWAY_ADMIN_LISTEN": s.Admin,
		// Whatever the experiment's own environment says, only the relays lead to the engines.
		"KAFKA_BROKERS": "", "CLICKHOUSE_URL": "", "DATABASE_URL": "",
	}
	if usesKafka {
		if s.Kafka, err = wire.NewKafka(c.Brokers()); err != nil {
			return nil, err
		}
		c.relays = append(c.relays, s.Kafka)
		env["KAFKA_BROKERS"] = strings.Join(s.Kafka.Brokers(), ",")
	}
	if usesClickHouse {
		if s.ClickHouse, err = wire.NewClickHouse(host(c.ClickHouseURL)); err != nil {
			return nil, err
		}
		c.relays = append(c.relays, s.ClickHouse)
		env["CLICKHOUSE_URL"] = through(c.ClickHouseURL, s.ClickHouse.Address())
	}
	if usesPostgres {
		if s.Postgres, err = wire.NewRelay(host(c.PostgresURL)); err != nil {
			return nil, err
		}
		c.relays = append(c.relays, s.Postgres)
		env["DATABASE_URL"] = through(c.PostgresURL, s.Postgres.Address())
	}
	switch kind {
	case "redirector":
		s.Listen, s.Dir = address(1), filepath.Join(c.Dir, name)
		env["SPILLWAY_VISITORS_LISTEN"], env["SPILLWAY_JOURNAL"] = s.Listen, filepath.Join(s.Dir, "journal")
		if err := os.MkdirAll(s.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("directory of %s: %w", name, err)
		}
	case "profileapi":
		s.Listen = address(1)
		env["SPILLWAY_API_LISTEN"] = s.Listen
	}
	maps.Copy(env, c.Env)
	s.spec = process.Spec{Name: name, Path: c.Binary, Args: []string{kind}}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		s.spec.Env = append(s.spec.Env, key+"="+env[key])
	}
	return s, nil
}

// Redirector starts one more redirector on the journal that stands in its directory, which is Dir/NAME/journal. It is none of the cluster's
// Services: nobody sends it visitors, and who started it ends it.
func (c *Cluster) Redirector(ctx context.Context, name string) (*Service, error) {
	s, err := c.service(name, true, false, true)
	if err != nil {
		return nil, err
	}
	s.Process, err = c.run(ctx, s.spec)
	return s, err
}

// Ready waits until the service says that it can do its work.
func (s *Service) Ready(ctx context.Context, patience time.Duration) error {
	deadline, last := time.Now().Add(patience), "no answer"
	client := &http.Client{Timeout: 3 * time.Second}
	for {
		if !s.Running() {
			return fmt.Errorf("%s ended: see %s", s.Name, s.Log())
		}
		if response, err := client.Get("http://" + s.Admin + "/readyz"); err == nil {
			body, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // only for the message
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			last = strings.TrimSpace(string(body))
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s (%s): see %s", s.Name, patience, last, s.Log())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", s.Name, ctx.Err())
		}
	}
}

// Heal ends every fault of the service's relays.
func (s *Service) Heal() {
	if s.Kafka != nil {
		for _, r := range s.Kafka.Relays() {
			r.Heal()
		}
	}
	if s.ClickHouse != nil {
		s.ClickHouse.StrikeInserts("", wire.Spare, 0, 0)
		s.ClickHouse.Heal()
	}
	if s.Postgres != nil {
		s.Postgres.Heal()
	}
}

// Relays returns all relays of the service, by the engine that they lead to.
func (s *Service) Relays() map[string][]*wire.Relay {
	all := map[string][]*wire.Relay{}
	if s.Kafka != nil {
		all["broker"] = s.Kafka.Relays()
	}
	if s.ClickHouse != nil {
		all["clickhouse"] = []*wire.Relay{s.ClickHouse.Relay}
	}
	if s.Postgres != nil {
		all["postgres"] = []*wire.Relay{s.Postgres}
	}
	return all
}

// host returns the host:port of a URL that an engine said of itself.
func host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Host
}

// through returns the same URL by way of another address.
func through(raw, address string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	u.Host = address
	return u.String()
}
