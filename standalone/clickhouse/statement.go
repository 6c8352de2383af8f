package clickhouse

import "strings"

// kind says by which way a statement goes through the gateway.
type kind int

const (
	other  kind = iota // its result is small: DDL, SHOW, KILL, INSERT … SELECT
	read               // SELECT: its result is streamed
	insert             // INSERT whose rows follow the statement as data
)

// statement is what the gateway has to know of a query's text. Offsets are into that text.
type statement struct {
	kind   kind
	verb   string // first word, in upper case
	format string // the name after FORMAT, if there is one
	// formatAt is where FORMAT stands; infileAt where FROM INFILE has to go in an insert; dataAt where an insert's rows begin.
	formatAt, infileAt, dataAt int
	// end is where the statement ends: before a last semicolon and after the last word.
	end      int
	several  bool // another statement follows a semicolon
	files    bool // it names a file of its client: INTO OUTFILE, FROM INFILE
	queryIDs []int
}

type token struct {
	start, end int
	depth      int  // open brackets around it
	word       bool // a bare word, number included
}

// parse finds a statement's parts. It understands as much of the grammar as it takes not to be misled by strings,
// quoted names, comments and brackets.
func parse(text string) statement {
	s := statement{formatAt: -1, infileAt: -1, dataAt: -1, end: len(text)}
	var (
		previous token
		words    int
		last     int // where the last token ended
		ended    bool
		state    insertHead
	)
	is := func(t token, keyword string) bool {
		return t.word && strings.EqualFold(text[t.start:t.end], keyword)
	}
	var beforeFormat token // the word FORMAT, while its name is awaited
	tokens(text, func(t token) bool {
		if ended {
			s.several = true
			return false
		}
		if text[t.start] == ';' && t.depth == 0 {
			ended = true
			return true
		}
		words++
		last = t.end
		if words == 1 {
			switch {
			case t.word:
				s.verb = strings.ToUpper(text[t.start:t.end])
			case text[t.start] == '(':
				s.verb = "SELECT"
			}
			switch s.verb {
			case "SELECT", "WITH", "FROM", "VALUES":
				s.kind = read
			}
			previous = t
			return true
		}
		if s.verb == "KILL" && is(t, "query_id") {
			s.queryIDs = append(s.queryIDs, t.start)
		}
		if t.depth == 0 {
			if is(previous, "INTO") && is(t, "OUTFILE") || is(previous, "FROM") && is(t, "INFILE") {
				s.files = true
			}
			if s.verb == "INSERT" {
				afterName := state.next(text, t)
				if afterName {
					if s.infileAt < 0 && (is(t, "SETTINGS") || is(t, "FORMAT") || is(t, "VALUES")) {
						s.infileAt = t.start
					}
					switch {
					case is(t, "SELECT"), is(t, "WITH"), is(t, "WATCH"):
						s.kind = other
						state.selects = true
					case state.selects:
					case is(t, "VALUES"):
						// Rows as text: the engine takes them from the statement itself.
						s.kind, s.format, s.dataAt = insert, "Values", t.end
						return false
					case is(previous, "FORMAT") && beforeFormat == previous && t.word:
						s.kind, s.format, s.formatAt = insert, text[t.start:t.end], previous.start
						s.dataAt = dataStart(text, t.end)
						return false
					}
				}
				if afterName && is(t, "FORMAT") {
					beforeFormat = t
				}
			} else if t.word && beforeFormat == previous && is(previous, "FORMAT") && !is(t, "FORMAT") {
				s.format, s.formatAt = text[t.start:t.end], previous.start
			} else if is(t, "FORMAT") {
				beforeFormat = t
			} else if s.formatAt >= 0 && !is(t, "SETTINGS") && is(previous, s.format) {
				// What stood behind FORMAT was no format: an alias or a column of that name.
				s.format, s.formatAt = "", -1
			}
		}
		previous = t
		return true
	})
	if s.dataAt < 0 {
		s.end = last
	}
	return s
}

// insertHead follows an INSERT up to and past its table's name, which may itself be a keyword.
type insertHead struct {
	step    int // 0 before INTO, 1 the name is awaited, 2 in the name, 3 past it
	selects bool
}

func (h *insertHead) next(text string, t token) (past bool) {
	word := strings.ToUpper(text[t.start:t.end])
	switch h.step {
	case 0:
		if word == "INTO" {
			h.step = 1
		} else if t.word {
			// INTO is optional.
			h.step = 2
		}
	case 1:
		if word != "TABLE" && word != "FUNCTION" {
			h.step = 2
		}
	case 2:
		if word == "." {
			h.step = 1
			return false
		}
		h.step = 3
		return true
	case 3:
		return true
	}
	return false
}

// dataStart skips what ClickHouse's parser skips between the format's name and the rows: blanks and one line end.
func dataStart(text string, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\f') {
		at++
	}
	if at < len(text) && text[at] == ';' {
		at++
	}
	if at < len(text) && text[at] == '\r' {
		at++
	}
	if at < len(text) && text[at] == '\n' {
		at++
	}
	return at
}

// tokens calls each for every token until it returns false. Comments and blanks are no tokens.
func tokens(text string, each func(token) bool) {
	depth := 0
	for at := 0; at < len(text); {
		start := at
		switch c := text[at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			at++
			continue
		case c == '-' && strings.HasPrefix(text[at:], "--"), c == '#' && (strings.HasPrefix(text[at:], "# ") || strings.HasPrefix(text[at:], "#!")):
			if n := strings.IndexByte(text[at:], '\n'); n >= 0 {
				at += n + 1
			} else {
				at = len(text)
			}
			continue
		case c == '/' && strings.HasPrefix(text[at:], "/*"):
			if n := strings.Index(text[at+2:], "*/"); n >= 0 {
				at += n + 4
			} else {
				at = len(text)
			}
			continue
		case c == '\'' || c == '"' || c == '`':
			at = quoted(text, at)
		case c == '$':
			at = heredoc(text, at)
		case wordByte(c):
			for at < len(text) && (wordByte(text[at]) || text[at] == '$') {
				at++
			}
			if !each(token{start, at, depth, true}) {
				return
			}
			continue
		case c == '(' || c == '[' || c == '{':
			at++
			if !each(token{start, at, depth, false}) {
				return
			}
			depth++
			continue
		case c == ')' || c == ']' || c == '}':
			at++
			depth = max(depth-1, 0)
		default:
			at++
		}
		if !each(token{start, at, depth, false}) {
			return
		}
	}
}

func wordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func quoted(text string, at int) int {
	quote := text[at]
	for at++; at < len(text); at++ {
		switch text[at] {
		case '\\':
			at++
		case quote:
			if at+1 < len(text) && text[at+1] == quote {
				at++
				continue
			}
			return at + 1
		}
	}
	return len(text)
}

// heredoc skips $tag$ … $tag$; a lone dollar sign is a token of its own.
func heredoc(text string, at int) int {
	n := at + 1
	for n < len(text) && wordByte(text[n]) {
		n++
	}
	if n >= len(text) || text[n] != '$' {
		return at + 1
	}
	tag := text[at : n+1]
	if end := strings.Index(text[n+1:], tag); end >= 0 {
		return n + 1 + end + len(tag)
	}
	return len(text)
}
