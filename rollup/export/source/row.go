package source

import (
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// Row is one row of a small result. Its methods panic when a column is of another type, which only a changed query can bring.
type Row struct {
	batch arrow.RecordBatch
	at    int
}

// Uint returns an unsigned integer.
func (r Row) Uint(column int) uint64 {
	switch a := r.batch.Column(column).(type) {
	case *array.Uint64:
		return a.Value(r.at)
	case *array.Uint32:
		return uint64(a.Value(r.at))
	case *array.Uint8:
		return uint64(a.Value(r.at))
	}
	panic(fmt.Sprintf("BUG: column %d is %s, not an unsigned integer", column, r.batch.Column(column).DataType()))
}

// Uints returns an array of unsigned 64-bit integers, valid as long as the batch.
func (r Row) Uints(column int) []uint64 {
	list := r.batch.Column(column).(*array.List)
	from, to := list.ValueOffsets(r.at)
	return list.ListValues().(*array.Uint64).Uint64Values()[from:to]
}

// Time returns a time stamp, in UTC.
func (r Row) Time(column int) time.Time {
	a := r.batch.Column(column).(*array.Timestamp)
	return a.Value(r.at).ToTime(a.DataType().(*arrow.TimestampType).Unit)
}

// Date returns a date, as midnight UTC.
func (r Row) Date(column int) time.Time {
	return r.batch.Column(column).(*array.Date32).Value(r.at).ToTime()
}
