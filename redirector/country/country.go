// Package country tells the country of an address from a database file in MaxMind's format (MaxMind DB File Format, version 2).
// Only the country leaves the redirector; the address does not.
package country

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// lookAgain is how often a newer file is looked for: publishers put out a new one every week or month.
const lookAgain = time.Minute

// Database answers from the newest version of its file. Its methods may be called by many at once.
type Database struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[version]
}

// version is one version of the file, wholly in memory: a file that somebody writes over in place would otherwise crash us.
type version struct {
	reader   *maxminddb.Reader
	size     int64
	modified time.Time

	mu    sync.RWMutex
	codes map[uintptr]string // country by the place of its record; a database has a few hundred
}

// maxCodes bounds what is remembered of a database that has a record of its own for each network.
const maxCodes = 1 << 16

// Open reads a database. It must tell a "country" with an "iso_code", as MaxMind's do, or a "country_code".
func Open(path string, log *slog.Logger) (*Database, error) {
	d := &Database{path: path, log: log}
	v, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("country database: %w", err)
	}
	d.current.Store(v)
	return d, nil
}

func read(path string) (*version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	reader, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	v := &version{reader: reader, size: info.Size(), modified: info.ModTime(), codes: map[uintptr]string{}}
	for network := range reader.Networks() {
		if err := network.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if decode(network) != "" {
			return v, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", path, errors.New("it knows no countries: use one with country.iso_code or country_code"))
}

// Of returns the country of an address, ISO 3166-1 alpha-2, or nothing when it is unknown. It allocates nothing once a country
// has been seen.
func (d *Database) Of(client netip.Addr) string {
	if !client.IsValid() {
		return ""
	}
	v := d.current.Load()
	found := v.reader.Lookup(client)
	if !found.Found() {
		return ""
	}
	place := found.Offset()
	v.mu.RLock()
	code, known := v.codes[place]
	v.mu.RUnlock()
	if known {
		return code
	}
	code = decode(found)
	v.mu.Lock()
	if len(v.codes) < maxCodes {
		v.codes[place] = code
	}
	v.mu.Unlock()
	return code
}

func decode(record maxminddb.Result) (code string) {
	for _, path := range [][]any{{"country", "iso_code"}, {"country_code"}} {
		if err := record.DecodePath(&code, path...); err == nil && len(code) == 2 && upper(code[0]) && upper(code[1]) {
			return code
		}
	}
	return ""
}

func upper(c byte) bool { return 'A' <= c && c <= 'Z' }

// Run takes over a newer file when there is one, until ctx ends. A file that cannot be read is left alone, with a line in the log.
func (d *Database) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := d.renew(); err != nil {
				d.log.Warn("the country database cannot be read; the one in use stays", "error", err)
			}
		}
	}
}

// renew reads the file again if it is another one.
func (d *Database) renew() error {
	info, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	if now := d.current.Load(); info.Size() == now.size && info.ModTime().Equal(now.modified) {
		return nil
	}
	v, err := read(d.path)
	if err != nil {
		return err
	}
	d.current.Store(v)
	d.log.Info("took over a newer country database", "file", d.path, "built", time.Unix(int64(v.reader.Metadata.BuildEpoch), 0).UTC().Format(time.DateOnly))
	return nil
}
