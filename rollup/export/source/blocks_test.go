package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"spillway.dev/service/engines"
)

// answer is two blocks as ClickHouse writes them over HTTP, of every type that Spillway's tables have.
func answer(t testing.TB) []byte {
	var b proto.Buffer
	for block := range 2 {
		words := (&proto.ColStr{}).LowCardinality()
		missing := proto.NewColNullable[int64](&proto.ColInt64{})
		var (
			ids     proto.ColUInt64
			small   proto.ColUInt32
			days    proto.ColDate
			flags   proto.ColBool
			kinds   proto.ColInt8
			strings proto.ColStr
			times   proto.ColInt64
		)
		for row := range 3 + block {
			ids.Append(uint64(row) << 60)
			small.Append(uint32(row))
			days = append(days, proto.Date(20000+row))
			flags.Append(row%2 == 0)
			kinds.Append(int8(row % 2))
			strings.Append(fmt.Sprintf("text %d", row))
			words.Append([]string{"DE", "", "FR"}[row%3])
			times.Append(int64(row) * 1_000_000)
			if row%2 == 0 {
				missing.Append(proto.Null[int64]())
			} else {
				missing.Append(proto.NewNullable(int64(row)))
			}
		}
		require.NoError(t, words.Prepare())
		columns := []struct {
			name, kind string
			data       proto.ColInput
		}{
			{"id", "UInt64", ids}, {"small", "UInt32", small}, {"day", "Date", days}, {"flag", "Bool", flags}, {"kind", `Enum8('it\'s' = 0, 'view' = 1)`, kinds},
			{"string", "String", strings}, {"word", "LowCardinality(String)", words}, {"time", "DateTime64(6, 'UTC')", times}, {"maybe", "Nullable(DateTime64(6, 'UTC'))", missing},
		}
		b.PutUVarInt(uint64(len(columns)))
		b.PutUVarInt(uint64(3 + block))
		for _, c := range columns {
			b.PutString(c.name)
			b.PutString(c.kind)
			if s, ok := c.data.(proto.StateEncoder); ok {
				s.EncodeState(&b)
			}
			c.data.EncodeColumn(&b)
		}
	}
	return b.Buf
}

// ask reads the blocks of an answer.
func ask(t testing.TB, body []byte) ([]*Block, error) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer server.Close()
	c, _, err := Open(engines.Addresses{ClickHouse: server.URL + "/spillway"})
	require.NoError(t, err)
	blocks, err := c.Blocks(t.Context(), Query{SQL: "SELECT 1"})
	require.NoError(t, err)
	defer blocks.Close()
	var all []*Block
	for {
		b, err := blocks.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, ErrBroken) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
}

func TestBlocks(t *testing.T) {
	all, err := ask(t, answer(t))
	require.NoError(t, err)
	require.Len(t, all, 2)
	b := all[1]
	require.Equal(t, []int{4, 9}, []int{b.Rows, b.Columns()})
	require.Equal(t, "kind", b.Name(4))
	require.Equal(t, proto.ColUInt64{0, 1 << 60, 2 << 60, 3 << 60}, *b.Column(0).(*proto.ColUInt64))
	kinds := b.Column(4).(*Enum)
	require.Equal(t, []string{"it's", "view"}, []string{kinds.Names[kinds.Row(0)], kinds.Names[kinds.Row(1)]})
	words := b.Column(6).(*proto.ColLowCardinalityRaw)
	require.Equal(t, 4, words.Rows())
	require.Equal(t, "FR", words.Index.(*proto.ColStr).Row(int(words.Keys8[2])))
	maybe := b.Column(8).(*Nullable)
	require.Equal(t, proto.ColUInt8{1, 0, 1, 0}, maybe.Nulls)
	require.EqualValues(t, 3, maybe.Values.(*proto.ColInt64).Row(3))

	empty, err := ask(t, nil)
	require.NoError(t, err)
	require.Empty(t, empty)
}

// An answer that ends anywhere but between two blocks is broken, as is one with an error's text in the middle.
func TestBrokenBlocks(t *testing.T) {
	whole := answer(t)
	first := 0
	for cut := 1; cut < len(whole); cut++ {
		all, err := ask(t, whole[:cut])
		if err == nil {
			require.Len(t, all, 1)
			require.Zero(t, first, "there is one place between two blocks")
			first = cut
			continue
		}
		require.ErrorIs(t, err, ErrBroken, "after %d bytes", cut)
	}
	require.Positive(t, first)
	_, err := ask(t, append(bytes.Clone(whole[:first]), "Code: 241. DB::Exception: Memory limit exceeded"...))
	require.ErrorIs(t, err, ErrBroken)
	// A column that changes its type.
	other := bytes.Replace(whole[first:], []byte("Date"), []byte("Bool"), 1)
	_, err = ask(t, append(bytes.Clone(whole[:first]), other...))
	require.ErrorContains(t, err, `column 3 is "day" of type "Bool" instead of "day" of type "Date"`)
}

func FuzzBlocks(f *testing.F) {
	f.Add(answer(f))
	f.Add([]byte("\x01\x01\x01a\x06UInt64"))
	f.Add([]byte("\x01\x00\x01a\x06UInt64"))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := Blocks{stream: &stream{}, reader: proto.NewReader(bytes.NewReader(body)), free: make(chan *Block, 1)}
		for {
			block, err := b.Next()
			if err != nil {
				return
			}
			for i := range block.Columns() {
				require.Equal(t, block.Rows, block.Column(i).Rows(), block.Name(i))
			}
			block.Release()
		}
	})
}
