package clickhouse

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"spillway.dev/standalone/libchdb"
)

// Handler serves ClickHouse's HTTP interface: statements at "/", "/ping".
func (e *Engine) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Ok.\n")
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		if err := notFromAPage(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if r.Method == http.MethodGet && r.URL.RawQuery == "" {
			_, _ = io.WriteString(w, "Ok.\n")
			return
		}
		e.serve(w, r)
	})
	return mux
}

// notFromAPage refuses what a web page in somebody's browser sends to this machine: the engine has no password.
func notFromAPage(r *http.Request) error {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" && site != "same-origin" || r.Header.Get("Origin") != "" {
		return fmt.Errorf("requests from web pages are not served here")
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if ip := net.ParseIP(host); ip == nil && strings.Contains(host, ".") && !strings.HasSuffix(host, ".localhost") {
		return fmt.Errorf("this is no name of this machine's ClickHouse: %q", host)
	}
	return nil
}

// serve answers one statement.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request) {
	q, err := e.newRequest(r)
	if err == nil {
		err = q.allowed()
	}
	if err != nil {
		newResponse(w, &request{}, e).fail(toException(err))
		return
	}
	out := newResponse(w, q, e)
	defer out.release()
	var rows *os.File
	if q.statement.kind == insert && q.rows != nil {
		if rows, err = e.receive(q); err != nil {
			out.fail(toException(err))
			return
		}
		defer e.discard(rows)
	}
	if err := e.begin(q.id); err != nil {
		out.fail(err)
		return
	}
	defer e.end(q.id)
	lease, err := e.prepare(q)
	if err != nil {
		out.fail(toException(err))
		return
	}
	conn := lease.conn
	// What is running when the client leaves: a question is not worth answering any more, a change is carried to its end.
	if q.statement.kind == read {
		stop := e.killWhenLeft(r.Context(), q.id)
		defer stop()
	}
	var result libchdb.Result
	switch {
	case q.statement.kind == read:
		result, err = e.read(conn, q, out)
	case rows != nil:
		result, err = conn.Query(q.insertFrom(rows.Name()), q.format, q.params)
	default:
		result, err = conn.Query(comment(q.id)+q.ownText(), q.format, q.params)
		if err == nil {
			err = out.copy(result.Data)
		}
	}
	// Before the answer: who reads it must not find the statement in system.processes any more.
	lease.end(err)
	if err != nil {
		out.fail(toException(err))
		return
	}
	out.finish(result)
}

// allowed refuses what the gateway does not pass on.
func (q *request) allowed() error {
	if q.statement.several {
		return exceptionf(codeSyntaxError, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
	}
	if q.statement.files {
		return exceptionf(codeNotImplemented, "NOT_IMPLEMENTED", "INTO OUTFILE and FROM INFILE name files of a client and are not allowed over HTTP")
	}
	if q.readonly && q.session != "" && q.statement.kind != read && !reading[q.statement.verb] {
		return exceptionf(164, "READONLY", "Cannot execute %s in readonly mode", q.statement.verb)
	}
	return nil
}

// reading are the statements besides SELECT that change nothing but a session.
var reading = map[string]bool{"SHOW": true, "DESCRIBE": true, "DESC": true, "EXISTS": true, "EXPLAIN": true, "USE": true, "SET": true}

// ownText is the statement as the client wrote it, but for query_id in KILL QUERY.
func (q *request) ownText() string {
	text := q.text
	for i := len(q.statement.queryIDs) - 1; i >= 0; i-- {
		at := q.statement.queryIDs[i]
		text = text[:at] + idOfQuery + text[at+len("query_id"):]
	}
	return text
}

// read streams a SELECT: the engine writes into a pipe, from which the response reads.
func (e *Engine) read(conn *libchdb.Conn, q *request, out *response) (libchdb.Result, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return libchdb.Result{}, fmt.Errorf("make a pipe for a result: %w", err)
	}
	type outcome struct {
		result libchdb.Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := conn.Query(q.selectInto(fmt.Sprintf("/dev/fd/%d", to.Fd())), "", q.params)
		_ = to.Close()
		done <- outcome{result, err}
	}()
	writeErr := out.stream(from)
	if writeErr != nil {
		e.kill(q.id)
	}
	// Closed before the engine has ended, the pipe would break; read to its end it lets the engine end by itself.
	_, _ = io.Copy(io.Discard, from)
	end := <-done
	_ = from.Close()
	if end.err == nil && writeErr != nil {
		return libchdb.Result{}, writeErr
	}
	return end.result, end.err
}

// selectInto is the statement with its result going to a file.
func (q *request) selectInto(file string) string {
	into := " INTO OUTFILE " + quoteText(file) + " TRUNCATE "
	s := q.statement
	if s.formatAt >= 0 {
		return comment(q.id) + q.text[:s.formatAt] + into + q.text[s.formatAt:s.end]
	}
	// A line of its own: the text may end with a comment.
	return comment(q.id) + q.text[:s.end] + "\n" + into + "FORMAT " + quoteFormat(q.format)
}

// quoteFormat lets through what can be a format's name.
func quoteFormat(name string) string {
	for i := range len(name) {
		if !wordByte(name[i]) {
			return quoteName(name)
		}
	}
	return name
}
