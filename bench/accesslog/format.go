package accesslog

import (
	"fmt"
	"strconv"
	"strings"
)

// String writes the entry as a line of the combined log format, without a line end, escaped as nginx does.
func (e Entry) String() string {
	status := "-"
	if e.Status != 0 {
		status = strconv.Itoa(e.Status)
	}
	return fmt.Sprintf("%s %s %s [%s] %s %s %d %s %s", hyphen(e.Host), hyphen(e.Identity), hyphen(e.User),
		e.Time.Format(layout), quote(e.Request), status, e.Bytes, quote(e.Referrer), quote(e.UserAgent))
}

func hyphen(value string) string {
	if value == "" {
		return "-"
	}
	return value
}

func quote(value string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(hyphen(value)) {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\x%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
