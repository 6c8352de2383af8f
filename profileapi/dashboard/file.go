package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"
)

//go:embed assets/* uplot/uplot.js uplot/uplot.css uplot/LICENSE
var assets embed.FS

// file is what the pages need beside themselves.
type file struct {
	kind, etag   string
	body, packed []byte // packed by gzip
}

// readFiles returns the files by their paths.
func readFiles() (map[string]file, error) {
	files := map[string]file{}
	for path, kind := range map[string]string{
		"assets/style.css": "text/css; charset=utf-8", "assets/app.js": "text/javascript; charset=utf-8", "assets/favicon.svg": "image/svg+xml",
		"uplot/uplot.js": "text/javascript; charset=utf-8", "uplot/uplot.css": "text/css; charset=utf-8", "uplot/LICENSE": "text/plain; charset=utf-8",
	} {
		body, err := assets.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the dashboard's files: %w", err)
		}
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err == nil {
			_, err = w.Write(body)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("pack the dashboard's files: %w", err)
		}
		sum := sha256.Sum256(body)
		files["/assets/"+path[strings.LastIndexByte(path, '/')+1:]] = file{kind, hex.EncodeToString(sum[:8]), body, packed.Bytes()}
	}
	return files, nil
}

func (d *Dashboard) file(w http.ResponseWriter, r *http.Request) {
	f := d.files[r.URL.Path]
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	if r.URL.RawQuery == f.etag {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("Vary", "Accept-Encoding")
	body, etag := f.body, f.etag
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body, etag = f.packed, f.etag+"-gzip"
	}
	h.Set("ETag", `"`+etag+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}
