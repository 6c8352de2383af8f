package clickhouse

import (
	"errors"
	"fmt"
	"io"
	"os"

	"spillway.dev/standalone/libchdb"
)

// receive writes an insert's rows to a file of the scratch directory. It is whole or an error: an insert whose client
// broke off must not begin.
func (e *Engine) receive(q *request) (*os.File, error) {
	file, err := os.CreateTemp(e.scratch, "rows-")
	if err != nil {
		return nil, fmt.Errorf("make a file for an insert's rows: %w", err)
	}
	rows := &noting{from: q.rows}
	if _, err := io.Copy(file, rows); err != nil {
		e.discard(file)
		if rows.err == nil {
			return nil, exceptionf(codeNoSpace, "NOT_ENOUGH_SPACE", "An insert's rows could not be kept, nothing was inserted: %v", err)
		}
		return nil, exceptionf(codeNetwork, "NETWORK_ERROR", "An insert's rows could not be received, nothing was inserted: %v", err)
	}
	return file, nil
}

// noting remembers that reading failed, to tell a client that broke off from a disk that is full.
type noting struct {
	from io.Reader
	err  error
}

func (n *noting) Read(p []byte) (int, error) {
	k, err := n.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.err = err
	}
	return k, err
}

// discard removes a scratch file.
func (e *Engine) discard(file *os.File) {
	err := errors.Join(file.Close(), os.Remove(file.Name()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.log.Warn("a scratch file could not be removed", "file", file.Name(), "error", err)
	}
}

// insertFrom is the insert reading its rows from a file.
func (q *request) insertFrom(file string) string {
	at := q.statement.infileAt
	return comment(q.id) + q.text[:at] + fromFile(file) + q.text[at:q.statement.dataAt]
}

func fromFile(file string) string {
	return " FROM INFILE " + quoteText(file) + " COMPRESSION 'none' "
}

// load makes an external table for one statement.
func (e *Engine) load(conn *libchdb.Conn, table external) error {
	file, err := os.CreateTemp(e.scratch, "table-")
	if err != nil {
		return fmt.Errorf("make a file for an external table: %w", err)
	}
	defer e.discard(file)
	if _, err := file.Write(table.rows); err != nil {
		return fmt.Errorf("write an external table: %w", err)
	}
	name := quoteName(table.name)
	if _, err := conn.Query("CREATE TEMPORARY TABLE "+name+" ("+table.structure+") ENGINE = Memory", "", nil); err != nil {
		return err
	}
	if len(table.rows) == 0 {
		return nil
	}
	_, err = conn.Query("INSERT INTO "+name+fromFile(file.Name())+"FORMAT "+quoteFormat(table.format), "", nil)
	return err
}
