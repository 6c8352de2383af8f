package cut

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// spread is an odd constant that lays the partitions of a stream far from each other: 2^64 divided by the golden ratio.
const spread = 0x9E3779B97F4A7C15

// key is the single number by which ClickHouse finds a lane's limits. Two lanes may have the same one; Predicate sees to that.
func (l Lane) key() uint64 { return l.Stream + uint64(l.Partition)*spread }

// Predicate is a condition on the rows of events that holds for exactly the vector's sequences. It reads three columns, and each
// row costs two look-ups in a small hash table, however many lanes there are.
func (v Vector) Predicate() string {
	if len(v) == 0 {
		return "0"
	}
	lanes := v.Lanes()
	var names strings.Builder
	for i, l := range lanes {
		if i > 0 {
			names.WriteByte(',')
		}
		fmt.Fprintf(&names, "(%d,%d)", l.Stream, l.Partition)
	}
	// A layer holds at most one range of a lane, and at most one lane of a key; nearly always there is only one layer.
	type layer struct {
		keys, first, last []uint64
		used              map[uint64]bool
	}
	var layers []*layer
	put := func(key uint64, r Range, from int) int {
		for i := from; ; i++ {
			if i == len(layers) {
				layers = append(layers, &layer{used: map[uint64]bool{}})
			}
			if y := layers[i]; !y.used[key] {
				y.used[key] = true
				y.keys, y.first, y.last = append(y.keys, key), append(y.first, r.First), append(y.last, r.Last)
				return i
			}
		}
	}
	own := make(map[uint64][]Lane, len(lanes))
	for _, l := range lanes {
		own[l.key()] = append(own[l.key()], l)
		from := 0
		for _, r := range v[l] {
			from = put(l.key(), r, from) + 1
		}
	}
	key := "stream + partition * " + strconv.FormatUint(spread, 10)
	var conditions []string
	for _, y := range layers {
		keys := numbers(y.keys)
		conditions = append(conditions, fmt.Sprintf("sequence BETWEEN transform(%s, %s, %s, toUInt64(1)) AND transform(%s, %s, %s, toUInt64(0))",
			key, keys, numbers(y.first), key, keys, numbers(y.last)))
	}
	// Lanes of one key would let each other's ranges through: they are told apart by name. It has never been seen.
	var apart []string
	for _, same := range own {
		if len(same) < 2 {
			continue
		}
		for _, l := range same {
			var within []string
			for _, r := range v[l] {
				within = append(within, fmt.Sprintf("sequence BETWEEN %d AND %d", r.First, r.Last))
			}
			apart = append(apart, fmt.Sprintf("(NOT (stream = %d AND partition = %d) OR %s)", l.Stream, l.Partition, strings.Join(within, " OR ")))
		}
	}
	slices.Sort(apart)
	all := append([]string{"(stream, partition) IN (" + names.String() + ")", "(" + strings.Join(conditions, " OR ") + ")"}, apart...)
	return strings.Join(all, " AND ")
}

func numbers(values []uint64) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(v, 10))
	}
	b.WriteString("]::Array(UInt64)")
	return b.String()
}
