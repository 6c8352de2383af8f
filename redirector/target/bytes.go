package target

import "iter"

// segments yields what stands between the ampersands of a query. An empty query has nothing.
func segments[T string | []byte](query T) iter.Seq[T] {
	return func(yield func(T) bool) {
		if len(query) == 0 {
			return
		}
		begin := 0
		for i := 0; i <= len(query); i++ {
			if i == len(query) || query[i] == '&' {
				if !yield(query[begin:i]) {
					return
				}
				begin = i + 1
			}
		}
	}
}

// appendName appends the decoded name of a parameter.
func appendName[T string | []byte](dst []byte, segment T) []byte {
	for i := 0; i < len(segment) && segment[i] != '='; i++ {
		var n int
		dst, n = appendDecoded(dst, segment, i)
		i += n
	}
	return dst
}

// appendValue appends the decoded value of a parameter, empty when it has none.
func appendValue(dst, segment []byte) []byte {
	i := 0
	for i < len(segment) && segment[i] != '=' {
		i++
	}
	for i++; i < len(segment); i++ {
		var n int
		dst, n = appendDecoded(dst, segment, i)
		i += n
	}
	return dst
}

// appendDecoded appends the byte that s[i] begins to spell and returns how many further bytes of s it took.
func appendDecoded[T string | []byte](dst []byte, s T, i int) ([]byte, int) {
	c, n := decoded(s, i)
	return append(dst, c), n
}

// decoded returns the byte that s[i] begins to spell and how many further bytes of s it took. A percent sign that begins no escape stands
// for itself, as everywhere on the web.
func decoded[T string | []byte](s T, i int) (c byte, n int) {
	switch c := s[i]; {
	case c == '+':
		return ' ', 0
	case c == '%' && escape(s, i):
		return digit(s[i+1])<<4 | digit(s[i+2]), 2
	default:
		return c, 0
	}
}

// compareNames orders two parameters by their decoded names. Each ends where the next one begins, or with its bytes.
func compareNames(a, b []byte) int {
	i, j := 0, 0
	for {
		endA, endB := i == len(a) || a[i] == '=' || a[i] == '&', j == len(b) || b[j] == '=' || b[j] == '&'
		switch {
		case endA && endB:
			return 0
		case endA:
			return -1
		case endB:
			return 1
		}
		x, n := decoded(a, i)
		y, m := decoded(b, j)
		if x != y {
			return int(x) - int(y)
		}
		i, j = i+1+n, j+1+m
	}
}

// appendSafe appends s with whatever a URL cannot contain percent-encoded.
func appendSafe[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if legal[c] && (c != '%' || escape(s, i)) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// legal are the bytes that may stand in the path, query or fragment of a URL: those of
// RFC 3986, and the square brackets, which RFC 3986 reserves and every browser sends in a query.
var legal = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?@!$&'()*+,;=%[]") {
		set[c] = true
	}
	return set
}()

func escape[T string | []byte](s T, i int) bool {
	return i+2 < len(s) && hexDigit(s[i+1]) && hexDigit(s[i+2])
}

func hexDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func digit(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
