// Package peer runs what others have built for the same work, set up as well as it can be, to be measured against.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"spillway.dev/bench/process"
	"spillway.dev/bench/stand"
)

// Redirect is an entry of nginx's map.
type Redirect struct{ Path, Target string }

// Nginx serves redirects from a map and files from a directory, and writes a buffered access log of both.
type Nginx struct {
	*process.Process
	Address string
	// Files is the directory that is served; a file's name is its path.
	Files string
	// Version as nginx says it.
	Version string
}

// ErrNoNginx is wrapped where nginx is not installed.
var ErrNoNginx = errors.New("nginx is not installed: install it (apt-get install nginx-light), or leave out what is measured against it")

// configuration of nginx, as somebody sets it up who wants speed: one worker, connections that stay, a log that is buffered, files whose
// descriptors are kept. The headers of a redirect and of a page are those of Spillway.
const configuration = `
daemon off;
worker_processes 1;
user root;
pid DIR/nginx.pid;
error_log DIR/error.log warn;
events { worker_connections 4096; use epoll; multi_accept on; }
http {
	access_log DIR/access.log combined buffer=256k flush=1s;
	client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi; uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
	server_tokens off;
	keepalive_requests 1000000000;
	keepalive_timeout 60s;
	sendfile on;
	tcp_nodelay on;
	open_file_cache max=1000 inactive=60s;
	open_file_cache_valid 60s;
	map_hash_max_size 1048576;
	map_hash_bucket_size 128;
	map $uri $target { include DIR/map; }
	server {
		listen ADDRESS backlog=4096;
		location /l/ {
			add_header Cache-Control "private, no-store";
			add_header X-Robots-Tag noindex;
			return 302 $target;
		}
		location / {
			root DIR/files;
			etag off;
			default_type "text/html; charset=utf-8";
			add_header Cache-Control "private, no-cache";
			add_header Referrer-Policy strict-origin-when-cross-origin;
		}
	}
}
`

// StartNginx starts nginx on one processor of the stand.
func StartNginx(ctx context.Context, s *stand.Stand, processor int, redirects []Redirect) (*Nginx, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		return nil, ErrNoNginx
	}
	dir := filepath.Join(s.Dir, "nginx")
	n := &Nginx{Files: filepath.Join(dir, "files")}
	if err := os.MkdirAll(n.Files, 0o755); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	version, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	_, n.Version, _ = strings.Cut(strings.TrimSpace(string(version)), "version: ")
	if n.Address, err = s.Address(); err != nil {
		return nil, err
	}
	var entries strings.Builder
	for _, r := range redirects {
		fmt.Fprintf(&entries, "%q %q;\n", r.Path, r.Target)
	}
	text := strings.NewReplacer("DIR", dir, "ADDRESS", n.Address).Replace(configuration)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "map"), []byte(entries.String()), 0o644), os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(text), 0o644)); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	if n.Process, err = s.Start(ctx, processor, process.Spec{Name: "nginx", Path: path, Args: []string{"-e", filepath.Join(dir, "error.log"), "-c", filepath.Join(dir, "nginx.conf")}}); err != nil {
		return nil, err
	}
	return n, stand.Until(ctx, "wait for nginx", 30*time.Second, 20*time.Millisecond, func() (bool, error) {
		if !n.Running() {
			text, _ := os.ReadFile(n.Log()) // its reason, if it wrote one
			return false, fmt.Errorf("it ended: %s", strings.TrimSpace(string(text)))
		}
		conn, err := net.Dial("tcp", n.Address)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
}
