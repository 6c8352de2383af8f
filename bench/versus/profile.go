package versus

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"spillway.dev/bench/stand"
)

// profile takes a CPU profile of a service while work keeps it busy, for that long, if profiles are wanted at all. It is no part of what is
// measured: being profiled costs something.
func (b *Bench) profile(ctx context.Context, name string, of *stand.Service, length time.Duration, work func() error) error {
	if b.Profiles == "" {
		return nil
	}
	seconds := max(int(length/time.Second), 1)
	working := make(chan error, 1)
	go func() { working <- work() }()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", of.Admin, seconds), nil)
	if err != nil {
		return fmt.Errorf("profile of %s: %w", of.Name, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("profile of %s: %w", of.Name, err)
	}
	defer response.Body.Close()
	if err := os.MkdirAll(b.Profiles, 0o755); err != nil {
		return fmt.Errorf("profile of %s: %w", of.Name, err)
	}
	out, err := os.Create(filepath.Join(b.Profiles, name+".pprof"))
	if err != nil {
		return fmt.Errorf("profile of %s: %w", of.Name, err)
	}
	defer out.Close()
	if _, err := out.ReadFrom(response.Body); err != nil {
		return fmt.Errorf("profile of %s: %w", of.Name, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("profile of %s: %w", of.Name, err)
	}
	return <-working
}
