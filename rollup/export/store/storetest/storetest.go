// Package storetest gives tests a real S3 server: versitygw over a temporary directory.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// module is what is installed where the program is not there yet.
	module = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
	// buildPatience bounds that: it compiles for a minute or two, once.
	buildPatience = 8 * time.Minute
	startPatience = 30 * time.Second
)

// S3 starts an S3 server that ends with the test, sets the credentials in the environment, and returns the address of an empty
// bucket for store.Open.
func S3(t *testing.T) string {
	t.Helper()
	program := program(t)
	root, meta := t.TempDir(), t.TempDir()
	const bucket = "warehouse"
	require.NoError(t, os.Mkdir(filepath.Join(root, bucket), 0o755))
	access, secret := rand.Text()[:16], rand.Text()
	t.Setenv("AWS_ACCESS_KEY_ID", access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	// The server takes a port's number, not a socket: a free one is chosen, and another if it was taken meanwhile.
	var problem error
	for range 5 {
		address := free(t)
		if problem = start(t, program, address, root, meta, access, secret); problem == nil {
			options := url.Values{"region": {"us-east-1"}, "endpoint": {"http://" + address}, "use_path_style": {"true"}}
			return "s3://" + bucket + "?" + options.Encode()
		}
	}
	require.NoError(t, problem)
	return ""
}

// start runs the server until the test ends, and waits until it serves.
func start(t *testing.T, program, address, root, meta, access, secret string) error {
	var output strings.Builder
	server := exec.Command(program, "--quiet", "--access", access, "--secret", secret, "--port", address, "posix", "--sidecar", meta, root)
	server.Env = []string{"HOME=" + meta, "PATH=" + os.Getenv("PATH")}
	server.Stdout, server.Stderr = &output, &output
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
	})
	for deadline := time.Now().Add(startPatience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			return fmt.Errorf("the S3 server ended: %s", output.String())
		default:
		}
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			return nil
		}
	}
	return errors.New("the S3 server does not serve")
}

func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// program finds versitygw in .build/tools, and builds it there if it is missing.
func program(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			break
		}
		require.NotEqual(t, dir, filepath.Dir(dir), "no go.work above the test's directory: run the tests inside the repository")
		dir = filepath.Dir(dir)
	}
	tools := filepath.Join(dir, ".build", "tools")
	path := filepath.Join(tools, "versitygw")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	t.Logf("building %s, once", module)
	ctx, cancel := context.WithTimeout(t.Context(), buildPatience)
	defer cancel()
	install := exec.CommandContext(ctx, "go", "install", module)
	install.Dir = os.TempDir()
	install.Env = append(os.Environ(), "GOBIN="+tools, "GOWORK=off", "GOFLAGS=")
	output, err := install.CombinedOutput()
	require.NoError(t, err, "build %s: %s", module, output)
	return path
}
