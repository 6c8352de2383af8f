package clickhouse

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"spillway.dev/standalone/libchdb"
)

// maxText bounds a statement's text and the rows of an INSERT … VALUES: they are held in memory.
const maxText = 256 << 20

// headSize is how much of a body is read to find out what statement it is.
const headSize = 1 << 20

// request is one statement with all that a client said of it.
type request struct {
	id        string
	text      string    // the statement, for an insert up to its rows
	rows      io.Reader // an insert's rows
	statement statement
	params    []libchdb.Param
	settings  [][2]string
	externals []external
	database  string
	session   string // session_id
	timeout   string // session_timeout, seconds
	mustExist bool   // session_check
	closing   bool   // close_session
	format    string // of the result, unless the statement names one
	revision  uint64 // of Native blocks in the result
	native    bool   // compress the result in ClickHouse's own frames
	method    compress.Method
	level     int
	encoding  string // Content-Encoding of the result
	whole     bool   // answer only when all of the result is there
	readonly  bool
}

// external is a table that came with the request.
type external struct {
	name, format, structure string
	rows                    []byte
}

var goodID = regexp.MustCompile(`^[A-Za-z0-9_.:@=-]{1,200}$`)

// notSettings are the URL's parameters that are no settings of ClickHouse.
var notSettings = map[string]bool{
	"query": true, "query_id": true, "database": true, "user": true, "password": true, "quota_key": true,
	"default_format": true, "compress": true, "decompress": true, "buffer_size": true, "wait_end_of_query": true,
	"client_protocol_version": true, "session_timeout": true, "session_check": true, "role": true, "stacktrace": true,
	"close_session": true, "session_id": true,
}

// newRequest reads a request up to an insert's rows.
func (e *Engine) newRequest(r *http.Request) (*request, error) {
	query := r.URL.Query()
	q := &request{
		id:       query.Get("query_id"),
		database: first(query.Get("database"), r.Header.Get("X-ClickHouse-Database")),
		session:  query.Get("session_id"),
		timeout:  query.Get("session_timeout"),
		format:   first(query.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), "TabSeparated"),
		native:   flag(query.Get("compress")),
		whole:    flag(query.Get("wait_end_of_query")),
		method:   compress.LZ4,

		mustExist: flag(query.Get("session_check")),
		closing:   flag(query.Get("close_session")),
	}
	if q.id == "" {
		q.id = uuid.NewString()
	} else if !goodID.MatchString(q.id) {
		return nil, exceptionf(codeBadArguments, "BAD_ARGUMENTS", "The gateway takes query ids of 1 to 200 letters, digits and _.:@=-, not %q", q.id)
	}
	if v := query.Get("client_protocol_version"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, exceptionf(codeBadArguments, "BAD_ARGUMENTS", "client_protocol_version is no number: %q", v)
		}
		q.revision = n
	}
	if strings.EqualFold(query.Get("network_compression_method"), "ZSTD") {
		q.method = compress.ZSTD
	}
	if flag(query.Get("enable_http_compression")) {
		q.encoding = acceptedEncoding(r.Header.Get("Accept-Encoding"))
	}
	for name, values := range query {
		value := values[len(values)-1]
		if param, ok := strings.CutPrefix(name, "param_"); ok {
			q.params = append(q.params, libchdb.Param{Name: param, Value: value})
			continue
		}
		if notSettings[name] {
			continue
		}
		if name == "readonly" {
			q.readonly = value != "0"
			continue
		}
		q.settings = append(q.settings, [2]string{name, value})
	}
	sort.Slice(q.settings, func(i, j int) bool { return q.settings[i][0] < q.settings[j][0] })
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		// A link must not be able to change anything: so it is on a server, too.
		q.readonly = true
	}
	body, err := decoded(r)
	if err != nil {
		return nil, err
	}
	text := query.Get("query")
	if kind, more, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "multipart/form-data" {
		field, err := q.form(multipart.NewReader(body, more["boundary"]), query)
		if err != nil {
			return nil, err
		}
		if field != "" {
			text += field
		}
		body = strings.NewReader("")
	}
	return q, q.read(text, body)
}

// read splits text and body into the statement and its rows.
func (q *request) read(text string, body io.Reader) error {
	inURL := len(text)
	if inURL > 0 {
		text += "\n"
	}
	q.statement = parse(text)
	if q.statement.kind == insert && q.statement.format != "Values" {
		q.text, q.rows = text[:q.statement.dataAt], io.MultiReader(strings.NewReader(strings.TrimSuffix(text[q.statement.dataAt:], "\n")), body)
		return nil
	}
	head, err := io.ReadAll(io.LimitReader(body, headSize))
	if err != nil {
		return exceptionf(codeNetwork, "NETWORK_ERROR", "The body broke off: %v", err)
	}
	q.statement = parse(text + string(head))
	if q.statement.kind == insert && q.statement.format != "Values" {
		all := text + string(head)
		q.text, q.rows = all[:q.statement.dataAt], io.MultiReader(strings.NewReader(all[q.statement.dataAt:]), body)
		return nil
	}
	rest, err := io.ReadAll(io.LimitReader(body, maxText+1))
	if err != nil {
		return exceptionf(codeNetwork, "NETWORK_ERROR", "The body broke off: %v", err)
	}
	if len(rest) > maxText {
		return exceptionf(codeSyntaxError, "SYNTAX_ERROR", "The statement is longer than %d bytes: send rows as INSERT … FORMAT", maxText)
	}
	q.text = text + string(head) + string(rest)
	if len(rest) > 0 {
		q.statement = parse(q.text)
	}
	if strings.TrimSpace(q.text) == "" || q.statement.verb == "" && q.statement.end == 0 {
		return exceptionf(codeSyntaxError, "SYNTAX_ERROR", "Empty query")
	}
	return nil
}

// form reads a multipart body: the field "query" and external tables.
func (q *request) form(parts *multipart.Reader, query url.Values) (text string, err error) {
	broken := func(err error) error {
		return exceptionf(codeBadArguments, "BAD_ARGUMENTS", "The multipart body cannot be read: %v", err)
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", broken(err)
		}
		data, err := io.ReadAll(io.LimitReader(part, maxText))
		if err != nil {
			return "", broken(err)
		}
		switch name := part.FormName(); {
		case name == "query":
			text = string(data)
		case strings.HasPrefix(name, "param_"):
			q.params = append(q.params, libchdb.Param{Name: strings.TrimPrefix(name, "param_"), Value: string(data)})
		case part.FileName() != "" || query.Has(name+"_structure") || query.Has(name+"_types"):
			structure := query.Get(name + "_structure")
			if structure == "" {
				var columns []string
				for i, t := range strings.Split(query.Get(name+"_types"), ",") {
					columns = append(columns, fmt.Sprintf("_%d %s", i+1, t))
				}
				structure = strings.Join(columns, ", ")
			}
			q.externals = append(q.externals, external{name, first(query.Get(name+"_format"), "TabSeparated"), structure, data})
			kept := q.settings[:0]
			for _, s := range q.settings {
				if s[0] != name+"_structure" && s[0] != name+"_format" && s[0] != name+"_types" {
					kept = append(kept, s)
				}
			}
			q.settings = kept
		}
	}
	return text, nil
}

// decoded undoes the body's Content-Encoding, and ClickHouse's own frames if decompress=1.
func decoded(r *http.Request) (io.Reader, error) {
	var body io.Reader = r.Body
	bad := func(what string, err error) error {
		return exceptionf(codeBadArguments, "BAD_ARGUMENTS", "The body is not valid %s: %v", what, err)
	}
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip":
		reader, err := gzip.NewReader(body)
		if err != nil {
			return nil, bad(encoding, err)
		}
		body = reader
	case "deflate":
		reader, err := zlib.NewReader(body)
		if err != nil {
			return nil, bad(encoding, err)
		}
		body = reader
	case "br":
		body = brotli.NewReader(body)
	case "lz4":
		body = lz4.NewReader(body)
	case "zstd":
		reader, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, bad(encoding, err)
		}
		body = reader.IOReadCloser()
	default:
		return nil, exceptionf(codeNotImplemented, "NOT_IMPLEMENTED", "Unknown Content-Encoding %q", encoding)
	}
	if flag(r.URL.Query().Get("decompress")) {
		body = newFrames(body)
	}
	return body, nil
}

// frames reads ClickHouse's compressed frames to their end; a body that ends within a frame is an error.
type frames struct {
	from   io.Reader
	reader *compress.Reader
	taken  int64 // bytes read from the body
}

func newFrames(body io.Reader) *frames {
	f := &frames{from: body}
	f.reader = compress.NewReader(readerFunc(func(p []byte) (int, error) {
		n, err := f.from.Read(p)
		f.taken += int64(n)
		return n, err
	}))
	return f
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (f *frames) Read(p []byte) (int, error) {
	before := f.taken
	n, err := f.reader.Read(p)
	if errors.Is(err, io.EOF) {
		if f.taken == before {
			return n, io.EOF
		}
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func acceptedEncoding(header string) string {
	for _, known := range []string{"zstd", "lz4", "br", "gzip", "deflate"} {
		for _, offered := range strings.Split(header, ",") {
			name, weight, _ := strings.Cut(strings.TrimSpace(offered), ";")
			if strings.EqualFold(name, known) && strings.ReplaceAll(weight, " ", "") != "q=0" {
				return known
			}
		}
	}
	return ""
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func flag(value string) bool { return value != "" && value != "0" && value != "false" }
