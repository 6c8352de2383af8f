package clickhouse

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"spillway.dev/standalone/libchdb"
)

// held is how many bytes of a result wait before the status is sent: until then an error is an error to any client.
const held = 64 << 10

// frameSize is how many bytes go into one of ClickHouse's compressed frames.
const frameSize = 1 << 20

// response writes one statement's result.
type response struct {
	w      http.ResponseWriter
	q      *request
	e      *Engine
	tag    string // marks an error in the middle of a result
	sent   bool   // the status is on its way
	start  bytes.Buffer
	spool  *os.File // the rest of what waits, if all has to
	body   io.Writer
	closer func() error // ends the body's encoding
}

func newResponse(w http.ResponseWriter, q *request, e *Engine) *response {
	header := w.Header()
	header.Set("X-ClickHouse-Server-Display-Name", "spillway")
	header.Set("X-ClickHouse-Timezone", e.timezone)
	if q.id != "" {
		header.Set("X-ClickHouse-Query-Id", q.id)
	}
	return &response{w: w, q: q, e: e}
}

func (o *response) format() string { return first(o.q.statement.format, o.q.format) }

// stream copies a SELECT's result as the engine writes it.
func (o *response) stream(from io.Reader) error {
	if strings.EqualFold(o.format(), "Native") {
		return reencode(o, from, o.q.revision)
	}
	_, err := io.CopyBuffer(o, from, make([]byte, 128<<10))
	return err
}

// copy takes a result that is already whole.
func (o *response) copy(data []byte) error { return o.stream(bytes.NewReader(data)) }

// Write takes bytes of the result.
func (o *response) Write(p []byte) (int, error) {
	if !o.sent {
		if o.spool == nil && o.start.Len()+len(p) <= held {
			return o.start.Write(p)
		}
		if o.q.whole {
			return o.wait(p)
		}
		if err := o.begin(); err != nil {
			return 0, err
		}
	}
	return o.body.Write(p)
}

// wait puts aside what must not be sent before the end.
func (o *response) wait(p []byte) (int, error) {
	if o.spool == nil {
		file, err := os.CreateTemp(o.e.scratch, "result-")
		if err != nil {
			return 0, fmt.Errorf("make a file for a result: %w", err)
		}
		o.spool = file
		if _, err := file.Write(o.start.Bytes()); err != nil {
			return 0, fmt.Errorf("put a result aside: %w", err)
		}
		o.start.Reset()
	}
	return o.spool.Write(p)
}

// release frees what the response holds.
func (o *response) release() {
	if o.spool != nil {
		o.e.discard(o.spool)
	}
}

// begin sends the status and what waited.
func (o *response) begin() error {
	o.sent = true
	o.tag = strings.ToLower(rand.Text()[:16])
	header := o.w.Header()
	header.Set("Content-Type", contentType(o.format()))
	header.Set("X-ClickHouse-Format", o.format())
	header.Set("X-ClickHouse-Exception-Tag", o.tag)
	if o.q.encoding != "" && !o.q.native {
		header.Set("Content-Encoding", o.q.encoding)
	}
	if err := o.encode(); err != nil {
		return err
	}
	_, err := o.body.Write(o.start.Bytes())
	o.start.Reset()
	return err
}

// encode puts the encodings asked for between the result and the wire.
func (o *response) encode() error {
	o.body, o.closer = o.w, func() error { return nil }
	if o.q.native {
		f := &frameWriter{to: o.w, frames: compress.NewWriter(compress.Level(o.q.level), o.q.method)}
		o.body, o.closer = f, f.flush
		return nil
	}
	var encoder io.WriteCloser
	switch o.q.encoding {
	case "":
		return nil
	case "gzip":
		encoder = gzip.NewWriter(o.w)
	case "deflate":
		encoder = zlib.NewWriter(o.w)
	case "br":
		encoder = brotli.NewWriterLevel(o.w, 4)
	case "lz4":
		encoder = lz4.NewWriter(o.w)
	case "zstd":
		z, err := zstd.NewWriter(o.w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return fmt.Errorf("compress a result: %w", err)
		}
		encoder = z
	}
	o.body, o.closer = encoder, encoder.Close
	return nil
}

// finish ends a result that is complete.
func (o *response) finish(result libchdb.Result) {
	if !o.sent {
		o.w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(
			`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"%d","result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`,
			result.RowsRead, result.BytesRead, result.RowsWritten, result.BytesWritten, result.RowsRead, result.ResultRows, o.start.Len(), int64(result.Elapsed*1e9)))
		if o.spool == nil && o.start.Len() == 0 {
			// An empty body has no encoding: clients tell it by its length.
			o.w.Header().Set("Content-Type", contentType(o.format()))
			o.w.Header().Set("X-ClickHouse-Format", o.format())
			o.w.Header().Set("Content-Length", "0")
			o.w.WriteHeader(http.StatusOK)
			return
		}
		if err := o.begin(); err != nil {
			panic(http.ErrAbortHandler)
		}
		if o.spool != nil {
			if _, err := o.spool.Seek(0, io.SeekStart); err != nil {
				panic(http.ErrAbortHandler)
			}
			if _, err := io.Copy(o.body, o.spool); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
	if err := o.closer(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// fail answers with an error. Once the status is on its way the error goes into the body, framed as a server frames it
// (src/Server/HTTP/WriteBufferFromHTTPServerResponse.cpp), and the body is not ended, so that no client takes it for whole.
func (o *response) fail(e *exception) {
	text := e.text
	if !strings.Contains(text, "(version ") {
		text += " (version " + o.e.version + ")"
	}
	if !o.sent {
		header := o.w.Header()
		header.Set("X-ClickHouse-Exception-Code", fmt.Sprint(e.code))
		header.Set("Content-Type", "text/plain; charset=UTF-8")
		o.w.WriteHeader(e.status())
		_, _ = io.WriteString(o.w, text+"\n")
		return
	}
	frame := "\r\n__exception__\r\n" + o.tag + "\r\n" + text + "\n" + fmt.Sprintf("%d %s", len(text)+1, o.tag) + "\r\n__exception__\r\n"
	if o.q.native {
		// Compressed frames end here: what follows is not one.
		_ = o.closer()
		_, _ = io.WriteString(o.w, frame)
	} else {
		_, _ = io.WriteString(o.body, frame)
		_ = o.closer()
	}
	if flusher, ok := o.w.(http.Flusher); ok {
		flusher.Flush()
	}
	panic(http.ErrAbortHandler)
}

// frameWriter gathers bytes into ClickHouse's compressed frames.
type frameWriter struct {
	to     io.Writer
	frames *compress.Writer
	buffer []byte
}

func (f *frameWriter) Write(p []byte) (int, error) {
	taken := len(p)
	for len(p) > 0 {
		n := min(len(p), frameSize-len(f.buffer))
		f.buffer = append(f.buffer, p[:n]...)
		p = p[n:]
		if len(f.buffer) == frameSize {
			if err := f.flush(); err != nil {
				return 0, err
			}
		}
	}
	return taken, nil
}

func (f *frameWriter) flush() error {
	if len(f.buffer) == 0 {
		return nil
	}
	if err := f.frames.Compress(f.buffer); err != nil {
		return fmt.Errorf("compress a result: %w", err)
	}
	f.buffer = f.buffer[:0]
	_, err := f.to.Write(f.frames.Data)
	return err
}

func contentType(format string) string {
	switch strings.ToLower(format) {
	case "tabseparated", "tsv", "tabseparatedwithnames", "tsvwithnames", "tabseparatedwithnamesandtypes", "tsvwithnamesandtypes":
		return "text/tab-separated-values; charset=UTF-8"
	case "csv", "csvwithnames", "csvwithnamesandtypes":
		return "text/csv; charset=UTF-8; header=" + map[bool]string{true: "present", false: "absent"}[strings.Contains(strings.ToLower(format), "names")]
	case "json", "jsoncompact", "jsonstrings", "jsoncolumns", "jsonobjecteachrow":
		return "application/json; charset=UTF-8"
	case "jsoneachrow", "jsoncompacteachrow", "jsonstringseachrow", "ndjson", "jsonlines":
		return "application/x-ndjson; charset=UTF-8"
	case "native", "rowbinary", "rowbinarywithnames", "rowbinarywithnamesandtypes", "parquet", "arrow", "arrowstream", "orc", "avro":
		return "application/octet-stream"
	case "xml":
		return "application/xml; charset=UTF-8"
	}
	return "text/plain; charset=UTF-8"
}
