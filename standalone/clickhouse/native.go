package clickhouse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Revisions of ClickHouse's protocol from which Native blocks look different (src/Core/ProtocolDefines.h).
const (
	revisionBlockInfo     = 1     // any client that names a revision expects the block's info before it
	revisionSerialization = 54454 // a byte after each column's type says whether its serialization is a custom one
)

// blockInfo is what precedes a block: field 1, is_overflows, 0; field 2, bucket_num, -1; the end.
const blockInfo = "\x01\x00\x02\xff\xff\xff\xff\x00"

// reencode copies Native blocks of revision 0, as libchdb writes them, into the form that a client of the given revision
// reads. Values are the same in both: only what stands between columns differs, so the types are needed to find where columns
// end. Types whose values have no length to be read off (aggregate states, Variant, Dynamic, JSON) are an error.
func reencode(to io.Writer, from io.Reader, revision uint64) error {
	if revision < revisionBlockInfo {
		_, err := io.Copy(to, from)
		return err
	}
	c := &blockCopier{from: bufio.NewReaderSize(from, 256<<10), to: bufio.NewWriterSize(to, 64<<10), layouts: map[string]layout{}}
	for {
		if _, err := c.from.Peek(1); errors.Is(err, io.EOF) {
			return c.to.Flush()
		}
		if err := c.block(revision); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// blockCopier copies blocks, value by value where it has to.
type blockCopier struct {
	from    *bufio.Reader
	to      *bufio.Writer
	layouts map[string]layout
}

func (c *blockCopier) block(revision uint64) error {
	if _, err := c.to.WriteString(blockInfo); err != nil {
		return err
	}
	columns, err := c.number()
	if err != nil {
		return err
	}
	rows, err := c.number()
	if err != nil {
		return err
	}
	for range columns {
		name, err := c.text()
		if err != nil {
			return err
		}
		kind, err := c.text()
		if err != nil {
			return err
		}
		if revision >= revisionSerialization {
			if err := c.to.WriteByte(0); err != nil {
				return err
			}
		}
		if rows == 0 {
			continue
		}
		l, known := c.layouts[kind]
		if !known {
			if l, err = layoutOf(kind); err != nil {
				return exceptionf(codeNotImplemented, "NOT_IMPLEMENTED", "Column %s: the embedded engine cannot send %s in Native: ask for another format, or cast it", name, kind)
			}
			c.layouts[kind] = l
		}
		if err := l.prefix(c); err != nil {
			return err
		}
		if err := l.values(c, rows); err != nil {
			return err
		}
	}
	return nil
}

// number copies a variable-length number.
func (c *blockCopier) number() (uint64, error) {
	n, err := binary.ReadUvarint(c.from)
	if err != nil {
		return 0, err
	}
	var b [binary.MaxVarintLen64]byte
	_, err = c.to.Write(b[:binary.PutUvarint(b[:], n)])
	return n, err
}

func (c *blockCopier) text() (string, error) {
	n, err := c.number()
	if err != nil {
		return "", err
	}
	if n > 1<<20 {
		return "", fmt.Errorf("a column's name or type of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.from, b); err != nil {
		return "", err
	}
	_, err = c.to.Write(b)
	return string(b), err
}

func (c *blockCopier) bytes(n uint64) error {
	// Most texts are short and already in the buffer.
	if n <= 4096 {
		b, err := c.from.Peek(int(n))
		if err != nil {
			return err
		}
		if _, err := c.to.Write(b); err != nil {
			return err
		}
		_, err = c.from.Discard(int(n))
		return err
	}
	_, err := io.CopyN(c.to, c.from, int64(n))
	return err
}

// word copies a 64-bit number.
func (c *blockCopier) word() (uint64, error) {
	b, err := c.from.Peek(8)
	if err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint64(b)
	return n, c.bytes(8)
}

// layout says how a type's values lie in a column.
type layout interface {
	prefix(c *blockCopier) error
	values(c *blockCopier, rows uint64) error
}

// fixed is a type of so many bytes a value.
type fixed uint64

func (fixed) prefix(*blockCopier) error                  { return nil }
func (f fixed) values(c *blockCopier, rows uint64) error { return c.bytes(uint64(f) * rows) }

type texts struct{}

func (texts) prefix(*blockCopier) error { return nil }
func (texts) values(c *blockCopier, rows uint64) error {
	for range rows {
		n, err := c.number()
		if err != nil {
			return err
		}
		if err := c.bytes(n); err != nil {
			return err
		}
	}
	return nil
}

type nullable struct{ of layout }

func (n nullable) prefix(c *blockCopier) error { return n.of.prefix(c) }
func (n nullable) values(c *blockCopier, rows uint64) error {
	if err := c.bytes(rows); err != nil {
		return err
	}
	return n.of.values(c, rows)
}

// array: where each row ends, then all rows' elements.
type array struct{ of layout }

func (a array) prefix(c *blockCopier) error { return a.of.prefix(c) }
func (a array) values(c *blockCopier, rows uint64) error {
	var total uint64
	for range rows {
		n, err := c.word()
		if err != nil {
			return err
		}
		total = n
	}
	if total == 0 {
		return nil
	}
	return a.of.values(c, total)
}

// tuple: each element a column of its own.
type tuple []layout

func (t tuple) prefix(c *blockCopier) error {
	for _, l := range t {
		if err := l.prefix(c); err != nil {
			return err
		}
	}
	return nil
}

func (t tuple) values(c *blockCopier, rows uint64) error {
	for _, l := range t {
		if err := l.values(c, rows); err != nil {
			return err
		}
	}
	return nil
}

// lowCardinality: a version, then the width of the indexes, the dictionary and the indexes
// (src/DataTypes/Serializations/SerializationLowCardinality.cpp).
type lowCardinality struct{ of layout }

func (lowCardinality) prefix(c *blockCopier) error { return c.bytes(8) }
func (l lowCardinality) values(c *blockCopier, _ uint64) error {
	kind, err := c.word()
	if err != nil {
		return err
	}
	keys, err := c.word()
	if err != nil {
		return err
	}
	if err := l.of.values(c, keys); err != nil {
		return err
	}
	rows, err := c.word()
	if err != nil {
		return err
	}
	return c.bytes(rows << (kind & 3))
}

var fixedSizes = map[string]fixed{
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "UInt128": 16, "UInt256": 32,
	"Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32,
	"Float32": 4, "Float64": 8, "BFloat16": 2, "Bool": 1, "UUID": 16, "IPv4": 4, "IPv6": 16,
	"Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "Time": 4, "Time64": 8, "Enum8": 1, "Enum16": 2, "Nothing": 1,
	"Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32,
}

var point = tuple{fixed(8), fixed(8)}

var shapes = map[string]layout{
	"String": texts{}, "Point": point, "Ring": array{point}, "LineString": array{point}, "Polygon": array{array{point}},
	"MultiLineString": array{array{point}}, "MultiPolygon": array{array{array{point}}},
}

// layoutOf reads a type's name, for instance "Array(Tuple(UInt64, LowCardinality(String)))".
func layoutOf(kind string) (layout, error) {
	name, inner, _ := strings.Cut(kind, "(")
	inner = strings.TrimSuffix(inner, ")")
	args := arguments(inner)
	if size, ok := fixedSizes[name]; ok {
		return size, nil
	}
	if l, ok := shapes[name]; ok {
		return l, nil
	}
	if strings.HasPrefix(name, "Interval") {
		return fixed(8), nil
	}
	one := func(i int) (layout, error) {
		if i >= len(args) {
			return nil, fmt.Errorf("type %s: argument %d is missing", kind, i+1)
		}
		return layoutOf(args[i])
	}
	switch name {
	case "FixedString":
		n, err := strconv.ParseUint(inner, 10, 32)
		return fixed(n), err
	case "Decimal":
		digits, err := strconv.Atoi(strings.Split(inner, ",")[0])
		switch {
		case digits > 38:
			return fixed(32), err
		case digits > 18:
			return fixed(16), err
		case digits > 9:
			return fixed(8), err
		}
		return fixed(4), err
	case "Nullable":
		l, err := one(0)
		return nullable{l}, err
	case "Array":
		l, err := one(0)
		return array{l}, err
	case "SimpleAggregateFunction":
		return one(1)
	case "LowCardinality":
		// The dictionary of a nullable type is not nullable: its first entry stands for NULL.
		if len(args) == 1 && strings.HasPrefix(args[0], "Nullable(") {
			args[0] = strings.TrimSuffix(strings.TrimPrefix(args[0], "Nullable("), ")")
		}
		l, err := one(0)
		return lowCardinality{l}, err
	case "Map":
		key, err := one(0)
		if err != nil {
			return nil, err
		}
		value, err := one(1)
		return array{tuple{key, value}}, err
	case "Tuple", "Nested":
		var t tuple
		for i, arg := range args {
			args[i] = unnamed(arg)
			l, err := one(i)
			if err != nil {
				return nil, err
			}
			t = append(t, l)
		}
		if len(t) == 0 {
			return nil, fmt.Errorf("type %s has no elements", kind)
		}
		if name == "Nested" {
			return array{t}, nil
		}
		return t, nil
	}
	return nil, fmt.Errorf("type %s has no layout that is known here", kind)
}

// arguments splits a type's arguments at its own commas.
func arguments(inner string) (args []string) {
	start := 0
	tokens(inner, func(t token) bool {
		if t.depth == 0 && inner[t.start] == ',' {
			args = append(args, strings.TrimSpace(inner[start:t.start]))
			start = t.end
		}
		return true
	})
	if rest := strings.TrimSpace(inner[start:]); rest != "" {
		args = append(args, rest)
	}
	return args
}

// unnamed is the type of a tuple's element, which may be preceded by a name.
func unnamed(element string) string {
	end, kind := 0, -1
	tokens(element, func(t token) bool {
		if end > 0 && t.depth == 0 && t.word && t.start > end {
			kind = t.start
			return false
		}
		if end > 0 {
			return false
		}
		end = t.end
		return true
	})
	if kind > 0 {
		return element[kind:]
	}
	return element
}
