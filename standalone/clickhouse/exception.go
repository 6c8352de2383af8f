package clickhouse

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"spillway.dev/standalone/libchdb"
)

// ClickHouse's error codes that the gateway itself raises (src/Common/ErrorCodes.cpp).
const (
	codeBadArguments   = 36
	codeNotImplemented = 48
	codeSyntaxError    = 62
	codeTooManyQueries = 202
	codeSameID         = 216
	codeNetwork        = 210
	codeNoSpace        = 243
)

// exception is an error as ClickHouse reports it over HTTP.
type exception struct {
	code int
	text string // "Code: N. DB::Exception: … (NAME)"
}

func (e *exception) Error() string { return e.text }

func exceptionf(code int, name, format string, args ...any) *exception {
	return &exception{code, fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format, args...), name)}
}

var (
	codePattern   = regexp.MustCompile(`^Code: (\d+)\. `)
	nestedPattern = regexp.MustCompile(`^Code: \d+\. DB::Exception: (Code: \d+\. )`)
	closing       = regexp.MustCompile(` \(version [^)]*\)\. \([A-Z0-9_]+\)`)
)

// toException gives an error the form that clients parse. An insert's error comes wrapped into itself: the client half of
// libchdb repeats what its server half said.
func toException(err error) *exception {
	var own *exception
	if errors.As(err, &own) {
		return own
	}
	var reported *libchdb.Error
	if !errors.As(err, &reported) {
		return exceptionf(1001, "STD_EXCEPTION", "%v", err)
	}
	text := strings.TrimSpace(reported.Message)
	for nestedPattern.MatchString(text) {
		text = text[nestedPattern.FindStringSubmatchIndex(text)[2]:]
		if at := closing.FindStringIndex(text); at != nil {
			text = text[:at[0]] + text[at[1]:]
		}
	}
	e := &exception{code: 1000, text: text}
	if m := codePattern.FindStringSubmatch(text); m != nil {
		e.code, _ = strconv.Atoi(m[1])
	}
	return e
}

// status is the HTTP status that a ClickHouse server answers for the code (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp).
func (e *exception) status() int {
	switch e.code {
	case 516, 192, 193, 194:
		return http.StatusForbidden
	case 6, 26, 27, 33, 34, 36, 38, 41, 43, 44, 47, 50, 53, 62, 69, 70, 72, 115, 117, 130, 131, 184, 456, 457:
		return http.StatusBadRequest
	case 46, 60, 61, 71, 81, 63:
		return http.StatusNotFound
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 159, 160:
		return http.StatusRequestTimeout
	case 381:
		return http.StatusLengthRequired
	case 307, 396:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}
