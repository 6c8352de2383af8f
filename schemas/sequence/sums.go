// Package sequence tells from three aggregates whether a stream has holes. Within a stream and partition events are numbered 1, 2, 3 …; ClickHouse's
// projection "streams" keeps of each how many rows there are, and the sum and the sum of squares of their numbers.
package sequence

// Sums are the count of some sequences, their sum and the sum of their squares, the latter two modulo 2^64, as ClickHouse adds UInt64. Two collections that
// agree in all three are taken for the same: they could differ only by several holes and doubles that cancel each other in all of them.
type Sums struct{ Count, Sum, Squares uint64 }

// UpTo returns those of 1 … n.
func UpTo(n uint64) Sums { return Sums{n, triangle(n), pyramid(n)} }

// Run returns those of first … last, both included.
func Run(first, last uint64) Sums { return UpTo(last).Minus(UpTo(first - 1)) }

// Plus returns those of both together.
func (s Sums) Plus(o Sums) Sums { return Sums{s.Count + o.Count, s.Sum + o.Sum, s.Squares + o.Squares} }

// Minus returns those of what is left when o is taken away.
func (s Sums) Minus(o Sums) Sums {
	return Sums{s.Count - o.Count, s.Sum - o.Sum, s.Squares - o.Squares}
}

// triangle is 1 + 2 + … + n, divided before the product can wrap.
func triangle(n uint64) uint64 {
	if n%2 == 0 {
		return n / 2 * (n + 1)
	}
	return (n + 1) / 2 * n
}

// pyramid is 1² + 2² + … + n² = n(n+1)(2n+1)/6, divided before the product can wrap.
func pyramid(n uint64) uint64 {
	a, b, c := n, n+1, 2*n+1
	if a%2 == 0 {
		a /= 2
	} else {
		b /= 2
	}
	switch {
	case a%3 == 0:
		a /= 3
	case b%3 == 0:
		b /= 3
	default:
		c = n/3*2 + (n%3*2+1)/3 // (2n+1)/3, also where 2n+1 does not fit into 64 bits
	}
	return a * b * c
}
