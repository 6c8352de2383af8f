package versus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
)

// rowsOf returns the rows that are in the table, in a format of which a message can hold several, RowBinary or JSONEachRow, cut as the
// batches are, which begin at the first sequence of their partition.
func (w *warehouse) rowsOf(ctx context.Context, all []batch, format string) ([]batch, error) {
	widths, err := w.widths(ctx)
	if err != nil {
		return nil, err
	}
	var made []batch
	for p := range int32(partitions) {
		rows := 0
		for _, b := range all {
			if b.partition == p {
				rows += b.count
			}
		}
		answer, err := w.Ask(ctx, fmt.Sprintf("SELECT * FROM %s.events WHERE partition = %d ORDER BY sequence LIMIT %d FORMAT %s", w.Database(), p, rows, format), nil)
		if err != nil {
			return nil, err
		}
		for _, b := range all {
			if b.partition != p {
				continue
			}
			end := 0
			for range b.count {
				n := 0
				if format == "RowBinary" {
					n = rowBinary(answer[end:], widths)
				} else {
					n = bytes.IndexByte(answer[end:], '\n') + 1
				}
				if n <= 0 {
					return nil, fmt.Errorf("rows of partition %d in format %s end too soon", p, format)
				}
				end += n
			}
			made = append(made, batch{partition: p, count: b.count, value: answer[:end:end]})
			answer = answer[end:]
		}
		if len(answer) > 0 {
			return nil, fmt.Errorf("rows of partition %d in format %s do not end", p, format)
		}
	}
	return made, nil
}

// widths returns how many bytes a value of each column takes in RowBinary; 0: it is a string, its length before it.
func (w *warehouse) widths(ctx context.Context) ([]int, error) {
	types, err := w.Ask(ctx, "SELECT type FROM system.columns WHERE database = '"+w.Database()+"' AND table = 'events' ORDER BY position FORMAT TSVRaw", nil)
	if err != nil {
		return nil, err
	}
	var widths []int
	for line := range strings.Lines(string(types)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "(")
		width, known := map[string]int{"UInt64": 8, "UInt32": 4, "DateTime64": 8, "Date": 2, "Enum8": 1, "Bool": 1, "String": 0, "LowCardinality": 0}[name]
		if !known {
			return nil, fmt.Errorf("column of type %s: say here how wide it is", name)
		}
		widths = append(widths, width)
	}
	return widths, nil
}

// rowBinary returns the length of the row at the beginning; 0 if it is not whole.
func rowBinary(rows []byte, widths []int) int {
	at := 0
	for _, width := range widths {
		if width == 0 {
			length, n := binary.Uvarint(rows[at:])
			if n <= 0 {
				return 0
			}
			width = n + int(length)
		}
		if at += width; at > len(rows) {
			return 0
		}
	}
	return at
}
