package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"spillway.dev/standalone/libchdb"
)

// How long an HTTP session lives without a request, as on a server.
const (
	sessionTimeout    = time.Minute
	maxSessionTimeout = time.Hour
	maxSessions       = 200
)

// session is the connection of an HTTP session: it keeps what SET and USE said, and temporary tables.
type session struct {
	conn    *libchdb.Conn
	expires *time.Timer
	busy    bool
}

// sessions are those that clients have opened with session_id. The zero value is ready for use.
type sessions struct {
	mu   sync.Mutex
	open map[string]*session
}

// lease is a connection for the time of one statement.
type lease struct {
	conn *libchdb.Conn
	end  func(err error)
}

// prepare gives a statement its connection, with the request's database, external tables and settings.
func (e *Engine) prepare(q *request) (*lease, error) {
	var (
		l   *lease
		err error
	)
	database := q.database
	if q.session == "" {
		var conn *libchdb.Conn
		if conn, err = e.connect(); err != nil {
			return nil, err
		}
		l = &lease{conn, func(error) { conn.Close() }}
		database = first(database, e.cfg.Database)
	} else if l, database, err = e.resume(q); err != nil {
		return nil, err
	}
	if database != "" && (database != "default" || q.session != "") {
		_, err = l.conn.Query("USE "+quoteName(database), "", nil)
	}
	for _, table := range q.externals {
		if err == nil {
			err = e.load(l.conn, table)
		}
	}
	if sql := q.set(); err == nil && sql != "" {
		_, err = l.conn.Query(sql, "", nil)
	}
	if err != nil {
		l.end(err)
		return nil, err
	}
	return l, nil
}

// resume takes the session's connection, which one statement at a time may use; it opens the session if it is not there. The
// database is the one that has to be chosen for this statement.
func (e *Engine) resume(q *request) (l *lease, database string, err error) {
	timeout := sessionTimeout
	if q.timeout != "" {
		seconds, err := strconv.Atoi(q.timeout)
		if err != nil || seconds <= 0 || time.Duration(seconds)*time.Second > maxSessionTimeout {
			return nil, "", exceptionf(374, "INVALID_SESSION_TIMEOUT", "Invalid session timeout: '%s'", q.timeout)
		}
		timeout = time.Duration(seconds) * time.Second
	}
	s := &e.sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.open[q.session]
	database = q.database
	switch {
	case have != nil && have.busy:
		return nil, "", exceptionf(373, "SESSION_IS_LOCKED", "Session %s is locked by a concurrent client", q.session)
	case have == nil && q.mustExist:
		return nil, "", exceptionf(372, "SESSION_NOT_FOUND", "Session %s not found", q.session)
	case have == nil && len(s.open) >= maxSessions:
		return nil, "", exceptionf(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many sessions. Maximum: %d", maxSessions)
	case have == nil:
		conn, err := e.connect()
		if err != nil {
			return nil, "", err
		}
		have = &session{conn: conn}
		if s.open == nil {
			s.open = map[string]*session{}
		}
		s.open[q.session] = have
		database = first(database, e.cfg.Database)
	default:
		have.expires.Stop()
	}
	have.busy = true
	return &lease{have.conn, func(failure error) { e.park(q, have, timeout, failure) }}, database, nil
}

// park gives a session's connection back after a statement.
func (e *Engine) park(q *request, have *session, timeout time.Duration, failure error) {
	if failure != nil {
		// A statement that failed would stay in system.processes until the connection's next one.
		_, _ = have.conn.Query("SELECT 1", "Null", nil)
	}
	if sql := q.unset(); sql != "" {
		if _, err := have.conn.Query(sql, "", nil); err != nil {
			e.log.Warn("a request's settings stay in its session", "session", q.session, "error", err)
		}
	}
	e.sessions.mu.Lock()
	defer e.sessions.mu.Unlock()
	have.busy = false
	if q.closing {
		delete(e.sessions.open, q.session)
		have.conn.Close()
		return
	}
	have.expires = time.AfterFunc(timeout, func() { e.expire(q.session, have) })
}

// expire ends a session that nobody has used for its time.
func (e *Engine) expire(id string, have *session) {
	e.sessions.mu.Lock()
	defer e.sessions.mu.Unlock()
	if e.sessions.open[id] == have && !have.busy {
		delete(e.sessions.open, id)
		have.conn.Close()
	}
}

// closeSessions ends all sessions. None may be busy.
func (e *Engine) closeSessions() {
	e.sessions.mu.Lock()
	defer e.sessions.mu.Unlock()
	for id, have := range e.sessions.open {
		if have.expires != nil {
			have.expires.Stop()
		}
		delete(e.sessions.open, id)
		have.conn.Close()
	}
}

// killWhenLeft kills a statement when its client leaves, until stop is called; stop waits for a kill that is under way, so that it
// cannot hit a later statement of the same name.
func (e *Engine) killWhenLeft(ctx context.Context, id string) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		e.kill(id)
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// set is the SET statement for the request's settings, or empty.
func (q *request) set() string {
	sql := ""
	for _, s := range q.settings {
		sql += fmt.Sprintf(", %s = %s", quoteName(s[0]), quoteText(s[1]))
	}
	if q.readonly && q.session == "" {
		// Last, since nothing can be set afterwards. 2 lets a SELECT carry SETTINGS.
		sql += ", readonly = 2"
	}
	if sql == "" {
		return ""
	}
	return "SET " + sql[2:]
}

// unset takes the request's settings back, for the session's next request.
func (q *request) unset() string {
	sql := ""
	for _, s := range q.settings {
		sql += fmt.Sprintf(", %s = DEFAULT", quoteName(s[0]))
	}
	if sql == "" {
		return ""
	}
	return "SET " + sql[2:]
}
