package sequence

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

// The closed forms against arithmetic that does not wrap, up to the largest numbers.
func TestSumsWrapAsClickHousesDo(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		n := random.Uint64() >> random.IntN(64)
		x := new(big.Int).SetUint64(n)
		next := new(big.Int).Add(x, big.NewInt(1))
		twice := new(big.Int).Add(x, next)
		sum := new(big.Int).Mul(x, next)
		squares := new(big.Int).Mul(sum, twice)
		if want := (Sums{n, low(sum.Rsh(sum, 1)), low(squares.Div(squares, big.NewInt(6)))}); UpTo(n) != want {
			t.Fatalf("1 … %d: %v, want %v", n, UpTo(n), want)
		}
	}
}

func TestARunIsTheSumOfItsNumbers(t *testing.T) {
	for first := uint64(1); first < 30; first++ {
		var want Sums
		for last := first; last < 60; last++ {
			want = want.Plus(Sums{1, last, last * last})
			if Run(first, last) != want {
				t.Fatalf("%d … %d: %v, want %v", first, last, Run(first, last), want)
			}
		}
	}
}

func low(x *big.Int) uint64 {
	return new(big.Int).And(x, new(big.Int).SetUint64(^uint64(0))).Uint64()
}
