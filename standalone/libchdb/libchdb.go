// Package libchdb calls libchdb, the ClickHouse engine as a shared library, without cgo.
//
// One process holds one engine, and the engine one data directory. Connections to it run in parallel; one connection
// runs one statement at a time. The functions bound here are those of the library's C interface, chdb.h of version 26.5.
package libchdb

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"
)

// Library is the loaded shared library.
type Library struct {
	connect          func(argc int32, argv **byte) *unsafe.Pointer
	closeConn        func(conn *unsafe.Pointer)
	query            func(conn unsafe.Pointer, query *byte, queryLen uintptr, format *byte, formatLen uintptr) unsafe.Pointer
	queryParams      func(conn unsafe.Pointer, query *byte, queryLen uintptr, format *byte, formatLen uintptr, names **byte, nameLens *uintptr, values **byte, valueLens *uintptr, count uintptr) unsafe.Pointer
	stream           func(conn unsafe.Pointer, query *byte, queryLen uintptr, format *byte, formatLen uintptr) unsafe.Pointer
	streamParams     func(conn unsafe.Pointer, query *byte, queryLen uintptr, format *byte, formatLen uintptr, names **byte, nameLens *uintptr, values **byte, valueLens *uintptr, count uintptr) unsafe.Pointer
	fetch            func(conn, result unsafe.Pointer) unsafe.Pointer
	cancel           func(conn, result unsafe.Pointer)
	destroy          func(result unsafe.Pointer)
	buffer           func(result unsafe.Pointer) unsafe.Pointer
	length           func(result unsafe.Pointer) uintptr
	elapsed          func(result unsafe.Pointer) float64
	rowsRead         func(result unsafe.Pointer) uint64
	bytesRead        func(result unsafe.Pointer) uint64
	storageRowsRead  func(result unsafe.Pointer) uint64
	storageBytesRead func(result unsafe.Pointer) uint64
	rowsWritten      func(result unsafe.Pointer) uint64
	bytesWritten     func(result unsafe.Pointer) uint64
	failure          func(result unsafe.Pointer) unsafe.Pointer
}

// Load opens the shared library at path and binds its functions. A process should load it once: the engine keeps
// process-wide state that cannot be taken down. timezone, for instance "UTC", is the zone of the engine, which knows no other
// way to be told than the C environment's TZ (Go's own environment is another).
//
// Standard input is made empty: see EmptyStdin.
func Load(path, timezone string) (*Library, error) {
	if err := EmptyStdin(); err != nil {
		return nil, err
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load libchdb: %w", err)
	}
	setenv, err := purego.Dlsym(purego.RTLD_DEFAULT, "setenv")
	if err != nil {
		return nil, fmt.Errorf("load libchdb: %w", err)
	}
	var set func(name, value string, overwrite int32) int32
	purego.RegisterFunc(&set, setenv)
	set("TZ", timezone, 1)
	lib := &Library{}
	var handlers func(on int32)
	for name, target := range map[string]any{
		"chdb_set_signal_handlers_enabled": &handlers,
		"chdb_connect":                     &lib.connect,
		"chdb_close_conn":                  &lib.closeConn,
		"chdb_query_n":                     &lib.query,
		"chdb_query_with_params_n":         &lib.queryParams,
		"chdb_stream_query_n":              &lib.stream,
		"chdb_stream_query_with_params_n":  &lib.streamParams,
		"chdb_stream_fetch_result":         &lib.fetch,
		"chdb_stream_cancel_query":         &lib.cancel,
		"chdb_destroy_query_result":        &lib.destroy,
		"chdb_result_buffer":               &lib.buffer,
		"chdb_result_length":               &lib.length,
		"chdb_result_elapsed":              &lib.elapsed,
		"chdb_result_rows_read":            &lib.rowsRead,
		"chdb_result_bytes_read":           &lib.bytesRead,
		"chdb_result_storage_rows_read":    &lib.storageRowsRead,
		"chdb_result_storage_bytes_read":   &lib.storageBytesRead,
		"chdb_result_rows_written":         &lib.rowsWritten,
		"chdb_result_bytes_written":        &lib.bytesWritten,
		"chdb_result_error":                &lib.failure,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("load libchdb: this library has no %s: %w", name, err)
		}
		purego.RegisterFunc(target, symbol)
	}
	// The library's handlers would take SIGSEGV, SIGTERM and others away from the Go runtime.
	handlers(0)
	return lib, nil
}

// EmptyStdin puts /dev/null in the place of standard input. The library's client half asks standard input for more rows of an INSERT, now and
// then even of one that names its file: on a pipe that somebody holds open it would wait there for ever, where no KILL QUERY
// reaches it, and on one with data it would insert what was not meant for it. It also makes standard input non-blocking, for all who share
// it: whoever waited there for the end of the parent would, at the next signal that interrupts the read, be told to try again instead.
func EmptyStdin() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("make standard input empty: %w", err)
	}
	defer func() { _ = null.Close() }()
	if err := unix.Dup2(int(null.Fd()), syscall.Stdin); err != nil {
		return fmt.Errorf("make standard input empty: %w", err)
	}
	return nil
}

// Conn is one connection: a session with its own settings and current database. It is not goroutine-safe.
type Conn struct {
	lib    *Library
	handle *unsafe.Pointer
	conn   unsafe.Pointer
}

// Connect opens a connection. The first one starts the engine with args (for instance "--path=DIR"); later ones must
// name the same path, and take from args the settings of their session only.
func (l *Library) Connect(args ...string) (*Conn, error) {
	argv := make([]*byte, 0, len(args)+2)
	var pins runtime.Pinner
	defer pins.Unpin()
	for _, arg := range append([]string{"clickhouse"}, args...) {
		text := append([]byte(arg), 0)
		pins.Pin(&text[0])
		argv = append(argv, &text[0])
	}
	argv = append(argv, nil)
	handle := l.connect(int32(len(argv)-1), &argv[0])
	runtime.KeepAlive(argv)
	if handle == nil || *handle == nil {
		return nil, errors.New("connect to libchdb: the engine did not start (its reason is on stderr)")
	}
	return &Conn{lib: l, handle: handle, conn: *handle}, nil
}

// Close ends the session. Closing the last connection stops the engine.
func (c *Conn) Close() {
	if c.handle != nil {
		c.lib.closeConn(c.handle)
		c.handle = nil
	}
}

// Param is a query parameter: the value, in ClickHouse's text form, of a placeholder {name:Type}.
type Param struct {
	Name, Value string
}

// Error is a failure that the engine reported, in its own words ("Code: 60. DB::Exception: …").
type Error struct{ Message string }

func (e *Error) Error() string { return e.Message }

// Result is what a statement returned. Data is a copy that belongs to the caller.
type Result struct {
	Data         []byte
	RowsRead     uint64 // rows read from storage
	BytesRead    uint64 // bytes read from storage
	RowsWritten  uint64
	BytesWritten uint64
	ResultRows   uint64
	Elapsed      float64 // seconds
}

// Query runs one statement and waits for all of its result, in the given output format (empty: the session's).
// What the engine refuses is an *Error.
func (c *Conn) Query(query, format string, params []Param) (Result, error) {
	q, f := bytesOf(query), bytesOf(format)
	var res unsafe.Pointer
	if len(params) == 0 {
		res = c.lib.query(c.conn, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)))
	} else {
		p := pinParams(params)
		defer p.pins.Unpin()
		res = c.lib.queryParams(c.conn, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)),
			&p.names[0], &p.nameLens[0], &p.values[0], &p.valueLens[0], uintptr(len(params)))
	}
	runtime.KeepAlive(q)
	runtime.KeepAlive(f)
	if res == nil {
		return Result{}, &Error{"libchdb gave no result"}
	}
	defer c.lib.destroy(res)
	return c.lib.result(res)
}

// Stream is a running statement whose result is taken chunk by chunk.
type Stream struct {
	conn *Conn
	res  unsafe.Pointer
	done bool
}

// Stream starts a statement whose result is then taken with Next; the connection serves nothing else until Close.
func (c *Conn) Stream(query, format string, params []Param) (*Stream, error) {
	q, f := bytesOf(query), bytesOf(format)
	var res unsafe.Pointer
	if len(params) == 0 {
		res = c.lib.stream(c.conn, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)))
	} else {
		p := pinParams(params)
		defer p.pins.Unpin()
		res = c.lib.streamParams(c.conn, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)),
			&p.names[0], &p.nameLens[0], &p.values[0], &p.valueLens[0], uintptr(len(params)))
	}
	runtime.KeepAlive(q)
	runtime.KeepAlive(f)
	if res == nil {
		return nil, &Error{"libchdb gave no result"}
	}
	if err := c.lib.errorOf(res); err != nil {
		c.lib.destroy(res)
		return nil, err
	}
	return &Stream{conn: c, res: res}, nil
}

// Next returns the next chunk; an empty Data says that the stream has ended.
func (s *Stream) Next() (Result, error) {
	if s.done {
		return Result{}, nil
	}
	res := s.conn.lib.fetch(s.conn.conn, s.res)
	if res == nil {
		s.done = true
		return Result{}, &Error{"libchdb gave no result"}
	}
	defer s.conn.lib.destroy(res)
	result, err := s.conn.lib.result(res)
	if err != nil || len(result.Data) == 0 {
		s.done = true
	}
	return result, err
}

// Close cancels what still runs and frees the stream.
func (s *Stream) Close() {
	if s.res == nil {
		return
	}
	if !s.done {
		s.conn.lib.cancel(s.conn.conn, s.res)
	}
	s.conn.lib.destroy(s.res)
	s.res = nil
}

func (l *Library) errorOf(res unsafe.Pointer) error {
	if text := l.failure(res); text != nil {
		if message := cString(text); message != "" {
			return &Error{message}
		}
	}
	return nil
}

func (l *Library) result(res unsafe.Pointer) (Result, error) {
	if err := l.errorOf(res); err != nil {
		return Result{}, err
	}
	out := Result{
		RowsRead:     l.storageRowsRead(res),
		BytesRead:    l.storageBytesRead(res),
		RowsWritten:  l.rowsWritten(res),
		BytesWritten: l.bytesWritten(res),
		ResultRows:   l.rowsRead(res),
		Elapsed:      l.elapsed(res),
	}
	if n := l.length(res); n > 0 {
		if data := l.buffer(res); data != nil {
			out.Data = append([]byte(nil), unsafe.Slice((*byte)(data), n)...)
		}
	}
	return out, nil
}

type pinnedParams struct {
	names, values       []*byte
	nameLens, valueLens []uintptr
	pins                runtime.Pinner
}

func pinParams(params []Param) *pinnedParams {
	p := &pinnedParams{}
	for _, param := range params {
		name, value := bytesOf(param.Name), bytesOf(param.Value)
		p.pins.Pin(&name[0])
		p.pins.Pin(&value[0])
		p.names, p.nameLens = append(p.names, &name[0]), append(p.nameLens, uintptr(len(param.Name)))
		p.values, p.valueLens = append(p.values, &value[0]), append(p.valueLens, uintptr(len(param.Value)))
	}
	return p
}

// bytesOf copies text and ends it with a zero byte, so that even an empty one has an address.
func bytesOf(text string) []byte {
	return append([]byte(text), 0)
}

func cString(text unsafe.Pointer) string {
	n := 0
	for *(*byte)(unsafe.Add(text, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(text), n))
}
