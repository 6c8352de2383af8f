package parquetfile

import "math/bits"

// numbers is a dictionary of numbers, numbered from 0 in the order in which they come first: a hash table with open addressing.
type numbers[T int32 | int64] struct {
	values []T
	table  []int32 // 1 + the value's number; 0: empty. Its length is a power of two.
}

// of appends the numbers of values in a new dictionary of them, or gives up when there are more than most different ones.
func (n *numbers[T]) of(values []T, to []int32, most int) ([]int32, bool) {
	const least = 1024
	if len(n.table) < least {
		n.table = make([]int32, least)
	}
	n.table = n.table[:least]
	clear(n.table)
	// A dictionary is kept by its column until the group is closed, so it gets memory of its own.
	n.values = make([]T, 0, 64)
	var last T
	at := int32(-1)
	for _, v := range values {
		if v != last || at < 0 {
			if at = n.find(v); int(at) >= max(most, fewWords) {
				return to, false
			}
			last = v
		}
		to = append(to, at)
	}
	return to, true
}

// find returns a value's number, a new one if it has none.
func (n *numbers[T]) find(v T) int32 {
	mask := len(n.table) - 1
	for i := n.slot(v); ; i = (i + 1) & mask {
		at := n.table[i]
		if at == 0 {
			n.values = append(n.values, v)
			n.table[i] = int32(len(n.values))
			if 2*len(n.values) > len(n.table) {
				n.grow()
			}
			return int32(len(n.values)) - 1
		}
		if n.values[at-1] == v {
			return at - 1
		}
	}
}

// slot is where a value is looked for first: Fibonacci hashing.
func (n *numbers[T]) slot(v T) int {
	return int(uint64(v) * 0x9E3779B97F4A7C15 >> (64 - bits.Len(uint(len(n.table)-1))))
}

func (n *numbers[T]) grow() {
	size := 2 * len(n.table)
	if cap(n.table) < size {
		n.table = make([]int32, size)
	}
	n.table = n.table[:size]
	clear(n.table)
	for at, v := range n.values {
		i := n.slot(v)
		for n.table[i] != 0 {
			i = (i + 1) & (size - 1)
		}
		n.table[i] = int32(at + 1)
	}
}
