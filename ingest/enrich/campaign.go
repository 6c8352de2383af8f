package enrich

import "bytes"

// Campaign is what a query string names by its utm_ parameters. The slices point into the query or into the campaign's own
// memory, until it reads the next.
type Campaign struct {
	Source, Medium, Name, Term, Content []byte

	clickID bool // an ad network's click id is there: somebody paid for this visit
	scratch []byte
}

// Read reads a query string without its "?". Of a parameter that comes twice the first counts.
func (c *Campaign) Read(query []byte) {
	*c = Campaign{scratch: c.scratch[:0]}
	if len(query) == 0 {
		return
	}
	for len(query) > 0 {
		pair := query
		if end := bytes.IndexByte(query, '&'); end >= 0 {
			pair, query = query[:end], query[end+1:]
		} else {
			query = nil
		}
		equals := bytes.IndexByte(pair, '=')
		if equals < 0 {
			continue
		}
		key, value := pair[:equals], pair[equals+1:]
		var into *[]byte
		switch string(key) {
		case "utm_source":
			into = &c.Source
		case "utm_medium":
			into = &c.Medium
		case "utm_campaign":
			into = &c.Name
		case "utm_term":
			into = &c.Term
		case "utm_content":
			into = &c.Content
		case "gclid", "gbraid", "wbraid", "msclkid", "ttclid", "dclid", "yclid":
			// Not fbclid: Facebook adds it to every link that leaves it, paid or not.
			c.clickID = c.clickID || len(value) > 0
		}
		if into != nil && *into == nil {
			*into = c.unescape(value)
		}
	}
}

// unescape decodes what a browser or a form encoded. A broken escape stays as it is.
func (c *Campaign) unescape(value []byte) []byte {
	if bytes.IndexByte(value, '%') < 0 && bytes.IndexByte(value, '+') < 0 {
		return value
	}
	from := len(c.scratch)
	for i := 0; i < len(value); i++ {
		switch b := value[i]; {
		case b == '+':
			c.scratch = append(c.scratch, ' ')
		case b == '%' && i+2 < len(value) && hex(value[i+1]) >= 0 && hex(value[i+2]) >= 0:
			c.scratch = append(c.scratch, byte(hex(value[i+1])<<4|hex(value[i+2])))
			i += 2
		default:
			c.scratch = append(c.scratch, b)
		}
	}
	return c.scratch[from:len(c.scratch):len(c.scratch)]
}

func hex(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}
