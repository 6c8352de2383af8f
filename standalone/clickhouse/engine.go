// Package clickhouse puts libchdb, the ClickHouse engine as a library, behind ClickHouse's HTTP interface, so that what
// talks to a ClickHouse server talks to the embedded engine without knowing.
//
// # The way of a request
//
// A request is one statement. It gets a connection of its own to the engine (opening one takes 0.2 ms), on which its
// settings and database are set; the connection is closed before the answer is complete. So requests share nothing,
// and what is no longer in system.processes has really ended.
//
//   - A SELECT is written by the engine into a pipe in the format asked for, and streamed to the client from there: memory
//     stays bounded whatever the format.
//   - An INSERT's rows are first received whole, into a file, and then inserted from it: a client that breaks off has
//     inserted nothing, and one insert is one statement, never repeated.
//   - Anything else is run and its result answered whole.
//
// # Differences from a server
//
// A query id does not reach libchdb: the gateway writes it as a comment before the statement, where
// system.processes.query shows it, and in KILL QUERY reads query_id from there. There are no users and no query log. A setting
// in the URL of a request within a session (session_id) is back at its default afterwards, whatever SET said before. Text that
// names files of the client (INTO OUTFILE, FROM INFILE) is refused, as a server refuses it over HTTP.
package clickhouse

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"spillway.dev/standalone/libchdb"
)

// Config says where the engine is and how much it may take.
type Config struct {
	// Library is the path of libchdb.
	Library string
	// Data is the engine's directory. It belongs to one process.
	Data string
	// Database is created at the start and is the default of requests that name none. Empty: "default".
	Database string
	// MaxQueries is how many statements run at once; further ones are refused with code 202. 0: 100.
	MaxQueries int
	// MaxMemoryRatio is the share of the machine's memory the engine may use, 0 to 1. 0: 0.6.
	MaxMemoryRatio float64
}

// Engine is a running libchdb. Its methods may be called from many goroutines.
type Engine struct {
	cfg      Config
	lib      *libchdb.Library
	root     *libchdb.Conn // keeps the engine up: closing the last connection would stop it
	log      *slog.Logger
	scratch  string
	version  string
	timezone string
	slots    chan struct{}
	sessions sessions

	mu      sync.Mutex
	running map[string]struct{} // ids of running statements
	closed  bool
}

// Open starts the engine on its data directory.
func Open(cfg Config, log *slog.Logger) (*Engine, error) {
	if cfg.Database == "" {
		cfg.Database = "default"
	}
	if cfg.MaxQueries == 0 {
		cfg.MaxQueries = 100
	}
	if cfg.MaxMemoryRatio == 0 {
		cfg.MaxMemoryRatio = 0.6
	}
	e := &Engine{
		cfg:     cfg,
		log:     log,
		scratch: filepath.Join(cfg.Data, "scratch"),
		slots:   make(chan struct{}, cfg.MaxQueries),
		running: map[string]struct{}{},
	}
	// Rows that a killed process had received and not yet inserted were never answered: they go.
	if err := os.RemoveAll(e.scratch); err != nil {
		return nil, fmt.Errorf("clear ClickHouse's scratch directory: %w", err)
	}
	store := filepath.Join(cfg.Data, "store")
	for _, dir := range []string{e.scratch, store} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make ClickHouse's directory: %w", err)
		}
	}
	settings := filepath.Join(cfg.Data, "config.xml")
	if err := os.WriteFile(settings, []byte(e.serverConfig()), 0o600); err != nil {
		return nil, fmt.Errorf("write ClickHouse's configuration: %w", err)
	}
	lib, err := libchdb.Load(cfg.Library, "UTC")
	if err != nil {
		return nil, err
	}
	e.lib = lib
	if e.root, err = lib.Connect("--path="+store, "--config-file="+settings); err != nil {
		return nil, err
	}
	hello, err := e.root.Query("SELECT version(), timezone()", "TSV", nil)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse for its version: %w", err)
	}
	e.version, e.timezone, _ = strings.Cut(strings.TrimSpace(string(hello.Data)), "\t")
	if _, err := e.root.Query("CREATE DATABASE IF NOT EXISTS "+quoteName(cfg.Database), "", nil); err != nil {
		return nil, fmt.Errorf("create ClickHouse's database: %w", err)
	}
	return e, nil
}

// serverConfig is the engine's configuration for a machine that runs everything else too.
func (e *Engine) serverConfig() string {
	return fmt.Sprintf(`<clickhouse>
    <max_server_memory_usage_to_ram_ratio>%g</max_server_memory_usage_to_ram_ratio>
    <mark_cache_size>268435456</mark_cache_size>
    <index_mark_cache_size>67108864</index_mark_cache_size>
    <background_pool_size>4</background_pool_size>
    <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
    <background_common_pool_size>2</background_common_pool_size>
</clickhouse>
`, e.cfg.MaxMemoryRatio)
}

// Version is the engine's version, as SELECT version() says it.
func (e *Engine) Version() string { return e.version }

// connect opens a connection for one statement.
func (e *Engine) connect() (*libchdb.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errors.New("ClickHouse is stopping")
	}
	return e.lib.Connect("--path=" + filepath.Join(e.cfg.Data, "store"))
}

// begin takes a slot and an id for a statement; end gives both back.
func (e *Engine) begin(id string) *exception {
	select {
	case e.slots <- struct{}{}:
	default:
		return exceptionf(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries. Maximum: %d", e.cfg.MaxQueries)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, twice := e.running[id]; twice {
		<-e.slots
		return exceptionf(codeSameID, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", "Query with id = %s is already running", id)
	}
	e.running[id] = struct{}{}
	return nil
}

func (e *Engine) end(id string) {
	e.mu.Lock()
	delete(e.running, id)
	e.mu.Unlock()
	<-e.slots
}

// kill ends the statement with the id, without waiting for it.
func (e *Engine) kill(id string) {
	conn, err := e.connect()
	if err != nil {
		return
	}
	defer conn.Close()
	if _, err := conn.Query("KILL QUERY WHERE startsWith(query, "+quoteText(comment(id))+") ASYNC", "TSV", nil); err != nil {
		e.log.Warn("a statement whose client left could not be killed", "query_id", id, "error", err)
	}
}

// Close stops the engine. Statements must have ended.
func (e *Engine) Close() {
	e.mu.Lock()
	closed := e.closed
	e.closed = true
	e.mu.Unlock()
	if !closed {
		e.closeSessions()
		e.root.Close()
	}
}

// comment carries a query id in front of its statement.
func comment(id string) string { return "/* " + id + " */ " }

// idOfQuery is the SQL that reads a query id back from the text that system.processes shows.
const idOfQuery = "if(startsWith(query, '/* '), substring(query, 4, position(query, ' */') - 4), query_id)"

var textQuoting = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

func quoteText(text string) string { return "'" + textQuoting.Replace(text) + "'" }

func quoteName(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}
