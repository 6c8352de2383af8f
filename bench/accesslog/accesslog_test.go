package accesslog

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const line = `83.149.9.216 - frank [17/May/2015:10:05:03 +0200] "GET /a%20b?x=1 HTTP/1.1" 200 203023 "http://semicomplete.com/" "Mozilla/5.0 (X11)"`

func TestParseACombinedLine(t *testing.T) {
	e, err := Parse(line + "\r\n")
	require.NoError(t, err)
	require.True(t, e.Time.Equal(time.Date(2015, 5, 17, 8, 5, 3, 0, time.UTC)))
	e.Time = time.Time{}
	require.Equal(t, Entry{
		Host: "83.149.9.216", Address: netip.MustParseAddr("83.149.9.216"), User: "frank",
		Request: "GET /a%20b?x=1 HTTP/1.1", Method: "GET", Target: "/a%20b?x=1", Protocol: "HTTP/1.1",
		Status: 200, Bytes: 203023, Referrer: "http://semicomplete.com/", UserAgent: "Mozilla/5.0 (X11)",
	}, e)
}

func TestParseWhatServersReallyWrite(t *testing.T) {
	for name, test := range map[string]struct {
		line string
		want func(*testing.T, Entry)
	}{
		"IPv6": {strings.Replace(line, "83.149.9.216", "2001:db8::7", 1), func(t *testing.T, e Entry) {
			require.Equal(t, "2001:db8::7", e.Address.String())
		}},
		"IPv4 in IPv6": {strings.Replace(line, "83.149.9.216", "::ffff:1.2.3.4", 1), func(t *testing.T, e Entry) {
			require.Equal(t, "1.2.3.4", e.Address.String())
		}},
		"IPv6 in brackets": {strings.Replace(line, "83.149.9.216", "[2001:db8::7]", 1), func(t *testing.T, e Entry) {
			require.Equal(t, "2001:db8::7", e.Address.String())
		}},
		"host name": {strings.Replace(line, "83.149.9.216", "crawl-1.example.com", 1), func(t *testing.T, e Entry) {
			require.False(t, e.Address.IsValid())
			require.Equal(t, "crawl-1.example.com", e.Host)
		}},
		"Apache's escapes": {strings.Replace(line, "Mozilla/5.0 (X11)", `a \"quoted\" \\ one\t\xc3\xa9`, 1), func(t *testing.T, e Entry) {
			require.Equal(t, "a \"quoted\" \\ one\té", e.UserAgent)
		}},
		"nginx's escapes": {strings.Replace(line, "Mozilla/5.0 (X11)", `\x22\x5C\xC3\xA9`, 1), func(t *testing.T, e Entry) {
			require.Equal(t, "\"\\é", e.UserAgent)
		}},
		"nothing known": {`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "-" 408 - "-" "-"`, func(t *testing.T, e Entry) {
			require.Empty(t, e.Request+e.Method+e.Referrer+e.UserAgent)
			require.Equal(t, 408, e.Status)
			require.Zero(t, e.Bytes)
		}},
		"common log format": {`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 5`, func(t *testing.T, e Entry) {
			require.Equal(t, "/", e.Target)
			require.Empty(t, e.UserAgent)
		}},
		"HTTP/0.9": {`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /old" 200 5 "-" "-"`, func(t *testing.T, e Entry) {
			require.Equal(t, "/old", e.Target)
			require.Empty(t, e.Protocol)
		}},
		"blank in the target": {`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a b HTTP/1.1" 400 5 "-" "-"`, func(t *testing.T, e Entry) {
			require.Equal(t, "/a b", e.Target)
		}},
		"a TLS handshake": {`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "\x16\x03\x01\x02" 400 5 "-" "-"`, func(t *testing.T, e Entry) {
			require.Equal(t, "\x16\x03\x01\x02", e.Request)
			require.Empty(t, e.Method)
		}},
		"user name with a blank": {strings.Replace(line, "frank", "frank zappa", 1), func(t *testing.T, e Entry) {
			require.Equal(t, "frank zappa", e.User)
		}},
		"more fields": {line + ` "10.0.0.1" 0.004`, func(t *testing.T, e Entry) {
			require.Equal(t, "Mozilla/5.0 (X11)", e.UserAgent)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Parse(test.line)
			require.NoError(t, err)
			test.want(t, e)
		})
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for broken, want := range map[string]error{
		"":                                      ErrEmpty,
		"  \n":                                  ErrEmpty,
		"garbage":                               ErrFields,
		"1.2.3.4 - - no time here":              ErrFields,
		"1.2.3.4 - - [17/May/2015] \"GET /\"":   ErrTime,
		strings.Replace(line, "May", "Mai", 1):  ErrTime,
		strings.Replace(line, `"GET`, "GET", 1): ErrQuotes,
		strings.Replace(line, `(X11)"`, "(X11)", 1):                   ErrQuotes,
		strings.Replace(line, `HTTP/1.1"`, `HTTP/1.1"x`, 1):           ErrQuotes,
		strings.Replace(line, "(X11)", `\q`, 1):                       ErrEscape,
		strings.Replace(line, `(X11)"`, `\x4`, 1):                     ErrEscape,
		strings.Replace(line, " 200 ", " 2000 ", 1):                   ErrStatus,
		strings.Replace(line, " 200 ", " ok ", 1):                     ErrStatus,
		strings.Replace(line, " 203023 ", " many ", 1):                ErrBytes,
		strings.Replace(line, " 203023 ", " -5 ", 1):                  ErrBytes,
		`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0"`:   ErrFields,
		`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 2`: ErrFields,
	} {
		_, err := Parse(broken)
		require.ErrorIs(t, err, want, broken)
	}
}

func TestReaderGoesOnAfterABadLine(t *testing.T) {
	r := NewReader(strings.NewReader(line + "\n" + strings.Repeat("x", MaxLine+1) + "\n\n" + line))
	_, err := r.Next()
	require.NoError(t, err)
	_, err = r.Next()
	require.ErrorIs(t, err, ErrTooLong)
	var broken *LineError
	_, err = r.Next()
	require.ErrorAs(t, err, &broken)
	require.Equal(t, 3, broken.Line)
	require.Equal(t, "empty line", broken.Reason())
	e, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, "GET", e.Method)
	_, err = r.Next()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 4, r.Line())
}

// Every line of the excerpt of a real log is well formed but the five that were added to it by hand.
func TestARealLog(t *testing.T) {
	file, err := os.Open("../replay/testdata/apache_logs")
	require.NoError(t, err)
	defer file.Close()
	r := NewReader(file)
	methods, reasons := map[string]int{}, map[string]int{}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		var broken *LineError
		if errors.As(err, &broken) {
			reasons[broken.Reason()]++
			continue
		}
		require.NoError(t, err)
		methods[e.Method]++
	}
	require.Equal(t, 407, r.Line())
	require.Equal(t, map[string]int{"GET": 382, "HEAD": 16, "POST": 5, "OPTIONS": 1, "": 1}, methods)
	require.Equal(t, map[string]int{ErrFields.Error(): 1, ErrQuotes.Error(): 1}, reasons)
}

func FuzzParse(f *testing.F) {
	f.Add(line)
	f.Add(`::1 - - [17/May/2015:10:05:03 +0000] "\x16\x03\"" 400 - "-" "\\"`)
	f.Add(`a b c d`)
	f.Fuzz(func(t *testing.T, line string) {
		e, err := Parse(line)
		if err != nil {
			if !strings.Contains(err.Error(), " ") {
				t.Fatalf("error %q does not explain", err)
			}
			return
		}
		if e.Method != "" && (e.Target == "" || !strings.HasPrefix(e.Request, e.Method+" "+e.Target)) {
			t.Fatalf("%q was split into %q and %q", e.Request, e.Method, e.Target)
		}
		if e.Time.IsZero() && e.Time.Year() != 1 {
			t.Fatalf("no time: %q", line)
		}
		// What was read can be written and is read as the same.
		again, err := Parse(e.String())
		if err != nil {
			t.Fatalf("%q was read but not %q: %v", line, e.String(), err)
		}
		if !again.Time.Equal(e.Time) {
			t.Fatalf("time %v became %v", e.Time, again.Time)
		}
		again.Time, e.Time = time.Time{}, time.Time{}
		if again != e {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}
