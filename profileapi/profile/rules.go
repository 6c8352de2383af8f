package profile

import (
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are there on a machine without them
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Limits of length. The title's and the bio's are in characters, the URL's in bytes.
const (
	MinHandle = 2
	MaxHandle = 30
	MaxTitle  = 120
	MaxBio    = 1000
	MaxURL    = 2048
	MaxUTM    = 150
)

// HandlePattern is what a handle looks like: lower-case letters, digits, and - _ . within.
const HandlePattern = `^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?$`

// reserved are the first path segments that the product uses or will, and words that would let a page pass for the platform.
var reserved = [...]string{
	"about", "abuse", "account", "accounts", "admin", "api", "app", "apple-touch-icon.png", "assets", "auth", "billing", "blog",
	"dashboard", "demo.json", "docs", "favicon.ico", "graphql", "health", "healthz", "help", "humans.txt", "index.html", "legal", "livez", "login",
	"logout", "manifest.json", "metrics", "null", "official", "openapi.json", "openapi.yaml", "pricing", "privacy", "readyz", "robots.txt", "root",
	"security", "security.txt", "settings", "signin", "signout", "signup", "sitemap.xml", "spillway", "static", "status", "support",
	"sw.js", "terms", "undefined", "v1", "v2", "www",
}

// Rules say what an input may be. They are values of an installation: what counts as ourselves depends on its addresses.
type Rules struct{ own []origin }

// origin is a host and port under which visitors reach us; an empty port is any port, loopback means that every name and address of
// this machine's loopback counts.
type origin struct {
	host     string
	port     string
	loopback bool
}

// NewRules returns the rules of an installation whose visitors come to the base URLs public and to the listening addresses (host:port).
// Empty ones are left out.
func NewRules(public []string, listening []string) Rules {
	var r Rules
	for _, p := range public {
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			r.own = append(r.own, origin{host: normalHost(u.Hostname()), port: portOf(u), loopback: isLoopback(normalHost(u.Hostname()))})
		}
	}
	for _, l := range listening {
		host, port, err := net.SplitHostPort(l)
		if err != nil {
			continue
		}
		host = normalHost(host)
		// What listens on all addresses is reached by the loopback too.
		r.own = append(r.own, origin{host: host, port: port, loopback: host == "" || isLoopback(host)})
	}
	return r
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// normalHost writes a host the one way in which hosts are compared: lower case, no final dot, IPv4 as four decimal numbers however
// it was spelt (browsers take 127.1, 0x7f000001 and 2130706433 for 127.0.0.1).
func normalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		return a.WithZone("").Unmap().String()
	}
	if a, ok := looseIPv4(host); ok {
		return a.String()
	}
	return host
}

// looseIPv4 reads an IPv4 address as the WHATWG URL standard does: one to four numbers, decimal, octal or hexadecimal.
func looseIPv4(host string) (netip.Addr, bool) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, p := range parts {
		base := 10
		switch {
		case strings.HasPrefix(p, "0x"):
			p, base = p[2:], 16
		case len(p) > 1 && p[0] == '0':
			p, base = p[1:], 8
		}
		n, err := strconv.ParseUint(p, base, 32)
		if err != nil && !(p == "" && base == 16) {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, false
			}
			value |= n << (24 - 8*i)
			continue
		}
		if n >= 1<<(8*(5-len(parts))) {
			return netip.Addr{}, false
		}
		value |= n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsLoopback() || a.IsUnspecified())
}

// ours says whether u leads to this installation.
func (r Rules) ours(u *url.URL) bool {
	host, port := normalHost(u.Hostname()), portOf(u)
	return slices.ContainsFunc(r.own, func(o origin) bool {
		return port == o.port && (host == o.host || o.loopback && isLoopback(host))
	})
}

// Handle checks a handle.
func (r Rules) Handle(handle string) error {
	invalid := func(message string) error { return &Invalid{Field: "handle", Value: handle, Message: message} }
	if len(handle) < MinHandle || len(handle) > MaxHandle {
		return invalid("use 2 to 30 characters")
	}
	for i, c := range []byte(handle) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_'
		inner := (c == '-' || c == '.') && i > 0 && i < len(handle)-1
		if !alnum && !inner {
			return invalid("use lower-case letters, digits and _, and - or . between them")
		}
	}
	if strings.Contains(handle, "..") {
		return invalid("two dots must not follow each other")
	}
	if slices.Contains(reserved[:], handle) {
		return invalid("this handle is reserved; choose another")
	}
	return nil
}

// Title checks a title of a profile or link and returns it without spaces around it.
func (r Rules) Title(title string) (string, error) {
	title = strings.TrimSpace(title)
	if title == "" {
		return "", &Invalid{Field: "title", Value: title, Message: "give it a title"}
	}
	return title, text("title", title, MaxTitle, false)
}

// Bio checks a profile's text; it may have several lines.
func (r Rules) Bio(bio string) (string, error) {
	bio = strings.TrimSpace(strings.ReplaceAll(bio, "\r\n", "\n"))
	return bio, text("bio", bio, MaxBio, true)
}

func text(field, s string, most int, lines bool) error {
	if n := utf8.RuneCountInString(s); n > most {
		return &Invalid{Field: field, Message: "use at most " + strconv.Itoa(most) + " characters, not " + strconv.Itoa(n)}
	}
	for _, c := range s {
		switch {
		case lines && c == '\n':
		case unicode.IsControl(c), c == utf8.RuneError, c == '\u2028', c == '\u2029':
			return &Invalid{Field: field, Value: s, Message: "remove the control characters"}
		case c >= '\u202a' && c <= '\u202e', c >= '\u2066' && c <= '\u2069':
			// They can turn text around and make a title show what it is not.
			return &Invalid{Field: field, Value: s, Message: "remove the characters that change the direction of text"}
		}
	}
	return nil
}

// Timezone checks an IANA zone name.
func (r Rules) Timezone(name string) error {
	if _, err := time.LoadLocation(name); err != nil || name == "" || name == "Local" {
		return &Invalid{Field: "timezone", Value: name, Message: "use the name of an IANA time zone, for example Europe/Berlin"}
	}
	return nil
}

// Theme checks a page's theme.
func (r Rules) Theme(theme string) error {
	return oneOf("theme", theme, "auto", "light", "dark")
}

// QueryMode checks what becomes of a visitor's own query string.
func (r Rules) QueryMode(mode string) error {
	return oneOf("query_mode", mode, "off", "append", "override")
}

func oneOf(field, value string, values ...string) error {
	if !slices.Contains(values, value) {
		return &Invalid{Field: field, Value: value, Message: "use one of " + strings.Join(values, ", ")}
	}
	return nil
}

// UTM checks campaign parameters.
func (r Rules) UTM(utm UTM) error {
	for _, f := range [...]struct{ name, value string }{
		{"utm.source", utm.Source}, {"utm.medium", utm.Medium}, {"utm.campaign", utm.Campaign}, {"utm.term", utm.Term}, {"utm.content", utm.Content},
	} {
		if err := text(f.name, f.value, MaxUTM, false); err != nil {
			return err
		}
	}
	return nil
}

// Target checks a link's target and returns it as it is stored and sent: an ASCII URL, in which only what a URL cannot hold was
// encoded.
func (r Rules) Target(target string) (string, error) {
	invalid := func(message string) (string, error) {
		return "", &Invalid{Field: "url", Value: target, Message: message}
	}
	raw := strings.Trim(target, " ")
	if raw == "" {
		return invalid("give the link a target, for example https://example.org/")
	}
	for _, c := range raw {
		if unicode.IsControl(c) || c == utf8.RuneError || c == '\u2028' || c == '\u2029' {
			return invalid("remove the control characters")
		}
		// Browsers read a backslash as a slash, so the target would be another than it looks.
		if c == '\\' {
			return invalid(`write / instead of \`)
		}
	}
	scheme, rest, found := strings.Cut(raw, "://")
	scheme = strings.ToLower(scheme)
	if !found || scheme != "http" && scheme != "https" {
		return invalid("only http:// and https:// targets can be tracked")
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.Contains(authority, "@") {
		return invalid("remove the user name before the @: it hides where the link leads")
	}
	ascii, err := asciiAuthority(authority)
	if err != nil {
		return invalid(err.Error())
	}
	stored := scheme + "://" + ascii + encode(tail)
	u, err := url.Parse(stored)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return invalid("this is not a URL: check its %-escapes")
	}
	if len(stored) > MaxURL {
		return invalid("use at most " + strconv.Itoa(MaxURL) + " bytes, not " + strconv.Itoa(len(stored)))
	}
	if r.ours(u) && redirects(u.Path) {
		return invalid("this leads back to a tracked link of ours; give the final target")
	}
	return stored, nil
}

// redirects says whether a path of ours answers with a redirect. Servers clean paths before they look at them.
func redirects(p string) bool {
	p = strings.ToLower(path.Clean("/" + p))
	return p == "/l" || p == "/q" || strings.HasPrefix(p, "/l/") || strings.HasPrefix(p, "/q/")
}

type hostError string

func (e hostError) Error() string { return string(e) }

func asciiAuthority(authority string) (string, error) {
	host, port := authority, ""
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return "", hostError("the address in brackets does not end")
		}
		if a, err := netip.ParseAddr(authority[1:end]); err != nil || !a.Is6() || a.Zone() != "" {
			return "", hostError("what is in brackets is not an IPv6 address")
		}
		host, port = authority[:end+1], authority[end+1:]
	} else if i := strings.IndexByte(authority, ':'); i >= 0 {
		host, port = authority[:i], authority[i:]
	}
	if port == ":" {
		port = ""
	}
	if port != "" {
		n, err := strconv.ParseUint(strings.TrimPrefix(port, ":"), 10, 16)
		if err != nil || n == 0 || port[0] != ':' {
			return "", hostError("the port is not a number from 1 to 65535")
		}
	}
	if strings.HasPrefix(host, "[") {
		return host + port, nil
	}
	profile := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.VerifyDNSLength(false))
	ascii, err := profile.ToASCII(host)
	if err != nil {
		return "", hostError("the host name is not valid")
	}
	bare := strings.TrimSuffix(ascii, ".")
	if bare == "" || len(bare) > 253 {
		return "", hostError("the host name is missing or too long")
	}
	for _, label := range strings.Split(bare, ".") {
		if label == "" || len(label) > 63 {
			return "", hostError("the host name is not valid")
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "", hostError("the host name is not valid")
			}
		}
	}
	return ascii + port, nil
}

// encode percent-encodes what may not stand in a URL as it is, and leaves everything else alone, existing escapes included.
func encode(tail string) string {
	const hexadecimal = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(tail) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>`{}|^", c) >= 0 {
			b.WriteByte('%')
			b.WriteByte(hexadecimal[c>>4])
			b.WriteByte(hexadecimal[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
