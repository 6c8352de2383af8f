package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// maxRows and maxHeading are the most rows of a block and bytes of a column's name or type that are believed: more are a sign of damage.
const (
	maxRows    = 1 << 20
	maxHeading = 1 << 16
)

// Blocks is a running query's result as ClickHouse's own blocks. It is not goroutine-safe.
type Blocks struct {
	*stream
	reader *proto.Reader
	names  []string
	types  []string
	row    int64
	free   chan *Block
}

// Block is some rows of a result, column by column. Who got one may hold it for as long as it likes.
type Block struct {
	Rows    int
	names   []string
	columns []proto.ColResult
	home    chan *Block
}

// NewBlock makes a block of columns of equal length.
func NewBlock(names []string, columns []proto.ColResult) *Block {
	return &Block{Rows: columns[0].Rows(), names: names, columns: columns}
}

// Columns is how many columns it has.
func (b *Block) Columns() int { return len(b.columns) }

// Name is a column's name.
func (b *Block) Name(column int) string { return b.names[column] }

// Column is a column's values: *proto.ColUInt8, ColUInt32, ColUInt64, ColInt64 (a DateTime64 of microseconds too), ColDate, ColBool, ColStr,
// ColLowCardinalityRaw (of a ColStr), *Enum or *Nullable.
func (b *Block) Column(column int) proto.ColResult { return b.columns[column] }

// Release gives the block's memory to one that is read later. It must not be used afterwards. A block that is never released is garbage.
func (b *Block) Release() {
	select {
	case b.home <- b:
	default:
	}
}

// Enum is a column of an enumeration: numbers, and what they are called.
type Enum struct {
	proto.ColInt8
	Names map[int8]string
}

// Nullable is a column whose values may be missing: Nulls is 1 where they are.
type Nullable struct {
	Nulls  proto.ColUInt8
	Values proto.ColResult
}

// Type is the column's type.
func (n *Nullable) Type() proto.ColumnType { return proto.ColumnTypeNullable.Sub(n.Values.Type()) }

// Rows is how many rows it has.
func (n *Nullable) Rows() int { return len(n.Nulls) }

// Reset forgets the values.
func (n *Nullable) Reset() {
	n.Nulls.Reset()
	n.Values.Reset()
}

// DecodeColumn reads the values.
func (n *Nullable) DecodeColumn(r *proto.Reader, rows int) error {
	if err := n.Nulls.DecodeColumn(r, rows); err != nil {
		return fmt.Errorf("which values are missing: %w", err)
	}
	return n.Values.DecodeColumn(r, rows)
}

// Blocks starts a SELECT whose result comes as blocks. The caller closes the result.
func (c *ClickHouse) Blocks(ctx context.Context, q Query) (*Blocks, error) {
	s, err := c.ask(ctx, q, "Native", nil)
	if err != nil {
		return nil, err
	}
	return &Blocks{stream: s, reader: proto.NewReader(s.input), free: make(chan *Block, 16)}, nil
}

// Next returns the next block, or io.EOF.
//
// Native has no end of its own. That an answer is whole is said by the connection (chunked HTTP), and to be sure of it by a count of the rows.
func (b *Blocks) Next() (*Block, error) {
	if b.empty {
		return nil, io.EOF
	}
	for {
		block, err := b.read()
		if errors.Is(err, errEnd) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("read ClickHouse's answer after %d rows: %w: %w", b.row, ErrBroken, err)
		}
		if block.Rows > 0 {
			b.row += int64(block.Rows)
			return block, nil
		}
		block.Release()
	}
}

// errEnd says that there is no further block.
var errEnd = errors.New("end")

func (b *Blocks) read() (*Block, error) {
	columns, err := b.reader.UVarInt()
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errEnd
	}
	if err != nil {
		return nil, fmt.Errorf("begin a block: %w", err)
	}
	rows, err := b.reader.UVarInt()
	if err != nil {
		return nil, fmt.Errorf("begin a block: %w", whole(err))
	}
	if columns == 0 || columns > 1000 || rows > maxRows || b.types != nil && int(columns) != len(b.types) {
		return nil, fmt.Errorf("a block of %d columns and %d rows", columns, rows)
	}
	block := b.block(int(columns), int(rows))
	for i := range int(columns) {
		name, kind, err := b.heading()
		if err != nil {
			return nil, fmt.Errorf("column %d: %w", i+1, whole(err))
		}
		if len(b.types) == i {
			b.names, b.types = append(b.names, name), append(b.types, kind)
		}
		if b.names[i] != name || b.types[i] != kind {
			return nil, fmt.Errorf("column %d is %q of type %q instead of %q of type %q", i+1, name, kind, b.names[i], b.types[i])
		}
		if block.columns[i] == nil {
			if block.columns[i], err = column(kind); err != nil {
				return nil, fmt.Errorf("column %s: %w", name, err)
			}
		}
		if err := decode(b.reader, block.columns[i], int(rows)); err != nil {
			return nil, fmt.Errorf("column %s: %w", name, whole(err))
		}
	}
	block.names = b.names
	return block, nil
}

// heading reads a column's name and type.
func (b *Blocks) heading() (name, kind string, err error) {
	for _, text := range []*string{&name, &kind} {
		n, err := b.reader.StrLen()
		if err != nil {
			return "", "", fmt.Errorf("name and type: %w", err)
		}
		if n > maxHeading {
			return "", "", fmt.Errorf("a name or type of %d bytes", n)
		}
		letters := make([]byte, n)
		if err := b.reader.ReadFull(letters); err != nil {
			return "", "", fmt.Errorf("name and type: %w", err)
		}
		*text = string(letters)
	}
	return name, kind, nil
}

// whole makes the end of the answer an error where it comes too early.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// block returns one to read into.
func (b *Blocks) block(columns, rows int) *Block {
	select {
	case used := <-b.free:
		used.Rows = rows
		for _, c := range used.columns {
			c.Reset()
		}
		return used
	default:
		return &Block{Rows: rows, columns: make([]proto.ColResult, columns), home: b.free}
	}
}

// decode reads a column's values.
func decode(r *proto.Reader, c proto.ColResult, rows int) error {
	if rows == 0 {
		return nil
	}
	if words, ok := c.(*proto.ColLowCardinalityRaw); ok {
		if err := words.DecodeState(r); err != nil {
			return fmt.Errorf("dictionary: %w", err)
		}
		if err := words.DecodeColumn(r, rows); err != nil {
			return fmt.Errorf("dictionary: %w", err)
		}
		if n := words.Rows(); n != rows {
			return fmt.Errorf("%d values in %d rows", n, rows)
		}
		return nil
	}
	if err := c.DecodeColumn(r, rows); err != nil {
		return fmt.Errorf("values: %w", err)
	}
	return nil
}

var enumeration = regexp.MustCompile(`'((?:[^'\\]|\\.)*)' = (-?\d+)`)

// column makes a column of a type. Only those that Spillway's tables have are known.
func column(kind string) (proto.ColResult, error) {
	switch {
	case kind == "UInt8":
		return new(proto.ColUInt8), nil
	case kind == "UInt32":
		return new(proto.ColUInt32), nil
	case kind == "UInt64":
		return new(proto.ColUInt64), nil
	case kind == "Int64", strings.HasPrefix(kind, "DateTime64(6,"):
		return new(proto.ColInt64), nil
	case kind == "Date":
		return new(proto.ColDate), nil
	case kind == "Bool":
		return new(proto.ColBool), nil
	case kind == "String":
		return new(proto.ColStr), nil
	case kind == "LowCardinality(String)":
		return &proto.ColLowCardinalityRaw{Index: new(proto.ColStr), Key: proto.KeyUInt8}, nil
	case strings.HasPrefix(kind, "Enum8("):
		e := &Enum{Names: map[int8]string{}}
		for _, m := range enumeration.FindAllStringSubmatch(kind, -1) {
			n, err := strconv.ParseInt(m[2], 10, 8)
			if err != nil {
				return nil, fmt.Errorf("type %s: %w", kind, err)
			}
			e.Names[int8(n)] = strings.NewReplacer(`\'`, `'`, `\\`, `\`).Replace(m[1])
		}
		return e, nil
	case strings.HasPrefix(kind, "Nullable("):
		values, err := column(strings.TrimSuffix(strings.TrimPrefix(kind, "Nullable("), ")"))
		if err != nil {
			return nil, err
		}
		return &Nullable{Values: values}, nil
	}
	return nil, fmt.Errorf("values of type %s are not known here", kind)
}
