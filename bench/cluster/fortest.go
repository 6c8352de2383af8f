package cluster

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// StartForTest starts a cluster of the binary that `make build` made (or SPILLWAY_BIN) in a directory of its own, and ends it and
// removes the directory with the test.
func StartForTest(ctx context.Context, t testing.TB, o Options) (*Cluster, error) {
	t.Helper()
	if o.Binary = os.Getenv("SPILLWAY_BIN"); o.Binary == "" {
		o.Binary = filepath.Join("..", "..", "bin", "spillway")
	}
	// PostgreSQL runs as another user where this is root, who may not pass through t.TempDir().
	dir, err := os.MkdirTemp("", "spillway-cluster-")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the cluster's directory: %v", err)
		}
	})
	o.Dir = dir
	c, err := Start(ctx, o)
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}
