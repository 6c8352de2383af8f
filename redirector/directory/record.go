package directory

import (
	"encoding/binary"

	"spillway.dev/redirector/target"
)

// record is a link in one piece of memory, without pointers and ready to answer: nothing is parsed or checked again, and nothing is allocated, when
// a visitor asks for it. It is not changed any more.
//
//	host length 1 byte · code length 1 byte · host · code
//	flags       1 byte, see below
//	id, profile, zone                 uvarints; the zone is a number of zones
//	plain                             length and bytes: the target's address for a visitor without a query string
//	tail                              length and bytes, if hasTail: what else the target is (see package target)
//	url                               if urlApart its length and bytes; else, if urlShorter, its length: plain begins with it; else it is plain
//	UTM                               five texts with their lengths, if hasUTM
//
// Lengths are uvarints. The last two are what PostgreSQL holds and no visitor needs, kept for the snapshot.
type record []byte

const (
	somewhere = 1 << iota // the target is one; without it the link leads nowhere
	hasTail
	urlApart
	urlShorter
	hasUTM
	modeShift = iota // the two bits above are the query mode; noMode is one that is not known
	noMode    = 3
)

var modes = [...]string{target.Off: "off", target.Append: "append", target.Override: "override", noMode: ""}

// newRecord packs a link; none if no visitor could ask for its name.
func (d *Directory) newRecord(r linkRow) record {
	if len(r.host) > maxHost || len(r.code) > maxName {
		return nil
	}
	var t target.Target
	flags := byte(noMode << modeShift)
	mode, err := target.ParseMode(r.mode)
	if err == nil {
		flags = byte(mode) << modeShift
		t, err = target.Prepare(target.Settings{URL: r.url, Mode: mode, UTM: target.UTM{
			Source: r.utm[0], Medium: r.utm[1], Campaign: r.utm[2], Term: r.utm[3], Content: r.utm[4],
		}})
	}
	if err != nil {
		d.log.Warn("a link leads nowhere: edit its target", "link", r.id, "error", err)
	} else {
		flags |= somewhere
	}
	plain, tail := t.Plain(), t.Tail(nil)
	if len(tail) > 0 {
		flags |= hasTail
	}
	switch {
	case len(r.url) > len(plain) || string(plain[:len(r.url)]) != r.url:
		flags |= urlApart
	case len(r.url) < len(plain):
		flags |= urlShorter
	}
	if r.utm != [5]string{} {
		flags |= hasUTM
	}
	b := make([]byte, 0, 64+len(r.host)+len(r.code)+len(plain)+len(tail)+len(r.url))
	b = append(append(append(b, byte(len(r.host)), byte(len(r.code))), r.host...), r.code...)
	b = append(b, flags)
	b = binary.AppendUvarint(b, r.id)
	b = binary.AppendUvarint(b, r.profile)
	b = binary.AppendUvarint(b, d.zones.number(r.zone, d.log))
	b = appendText(b, plain)
	if flags&hasTail != 0 {
		b = appendText(b, tail)
	}
	switch {
	case flags&urlApart != 0:
		b = appendText(b, r.url)
	case flags&urlShorter != 0:
		b = binary.AppendUvarint(b, uint64(len(r.url)))
	}
	if flags&hasUTM != 0 {
		for _, s := range r.utm {
			b = appendText(b, s)
		}
	}
	return b
}

func (r record) host() []byte { return r[2 : 2+int(r[0])] }
func (r record) code() []byte { return r[2+int(r[0]) : 2+int(r[0])+int(r[1])] }

func (r record) key() key { return key{kindLink, string(r.host()), string(r.code())} }

func (r record) is(host string, code []byte) bool {
	return int(r[0]) == len(host) && int(r[1]) == len(code) && string(r.code()) == string(code) && string(r.host()) == host
}

// lay lays a link over the record's bytes, and tells whether it leads somewhere.
func (r record) lay(l *Link, z *zones) bool {
	f := fields(r[2+int(r[0])+int(r[1]):])
	flags := f[0]
	f = f[1:]
	var n uint64
	l.ID, f = f.next()
	l.ProfileID, f = f.next()
	n, f = f.next()
	l.Zone = z.at(n).location
	n, f = f.next()
	plain := f[:n:n]
	var tail []byte
	if flags&hasTail != 0 {
		n, f = f[n:].next()
		tail = f[:n:n]
	}
	l.Target = target.Over(plain, tail)
	return flags&somewhere != 0
}

// appendSnapshot appends the link as a snapshot has it: what PostgreSQL holds (see fieldReader.link).
func (r record) appendSnapshot(b []byte, z *zones) []byte {
	f := fields(r[2+int(r[0])+int(r[1]):])
	flags := f[0]
	f = f[1:]
	b = append(b, byte(kindLink))
	b = binary.AppendUvarint(b, f.number())
	b = binary.AppendUvarint(b, f.number())
	zone := z.at(f.number()).name
	url := f.bytes()
	if flags&hasTail != 0 {
		f.bytes()
	}
	switch {
	case flags&urlApart != 0:
		url = f.bytes()
	case flags&urlShorter != 0:
		url = url[:f.number()]
	}
	b = appendText(appendText(appendText(b, r.host()), r.code()), url)
	b = appendText(b, modes[flags>>modeShift])
	for range 5 {
		if flags&hasUTM != 0 {
			b = appendText(b, f.bytes())
		} else {
			b = append(b, 0)
		}
	}
	return appendText(b, zone)
}

// fields are a record's own, one after the other.
type fields []byte

// next returns a number and what is behind it. Most are small.
func (f fields) next() (n uint64, rest fields) {
	size := 1
	if n = uint64(f[0]); n >= 0x80 {
		n, size = binary.Uvarint(f)
	}
	return n, f[size:]
}

func (f *fields) number() (n uint64) {
	n, *f = f.next()
	return n
}

func (f *fields) bytes() []byte {
	n := f.number()
	b := *f
	*f = b[n:]
	return b[:n:n]
}
