package versus

import (
	"context"
	"fmt"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/pump"
)

// latency is asked at shares of what the slower of the two can do, so that both get the same load.
func (b *Bench) latency(ctx context.Context) (*Table, error) {
	const links = 10_000
	v, err := b.visitors(ctx, links)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if err := v.withNginx(ctx, links); err != nil {
		return nil, err
	}
	o := pump.Options{Requests: v.clicks, Wanted: 302, Duration: pick(b, 3*time.Second, 400*time.Millisecond), Processor: others}
	var capacity measure.Series
	for range pick(b, 3, 1) {
		for _, address := range []string{v.redirector.Listen, v.nginx.Address} {
			o.Address = address
			r, err := pump.Closed(ctx, o)
			if err != nil {
				return nil, err
			}
			if err := r.Err(); err != nil {
				return nil, err
			}
			capacity = append(capacity, r.Rate())
		}
	}
	var ours, theirs measure.Series
	for i, rate := range capacity {
		if i%2 == 0 {
			ours = append(ours, rate)
		} else {
			theirs = append(theirs, rate)
		}
	}
	most := min(ours.Median(), theirs.Median())
	b.Say("capacity %s/s, nginx %s/s", ours, theirs)
	t := &Table{Title: "Latency", How: fmt.Sprintf("Visitors come independently of each other (open loop), at shares of %s requests/s, which is what the slower of the two can do here "+
		"(redirector %s, nginx %s); each wait counts from the visitor's arrival to the whole answer, so nothing is omitted while a server is busy. ",
		measure.Number(most), ours, theirs)}
	if err := shipped(ctx, v.redirector); err != nil {
		return nil, err
	}
	v.kafka.Kill()
	t.How += "Meanwhile the broker is away: it would take from the generator's processor what the generator needs to be in time. What shipping costs the redirector " +
		"is in its CPU a request, above. "
	o.Duration = pick(b, 2*time.Second, 500*time.Millisecond)
	var late time.Duration
	for _, share := range []float64{0.2, 0.5, 0.8} {
		o.Rate = most * share
		quantiles := []float64{50, 99, 99.9}
		figures := [2][]measure.Series{make([]measure.Series, len(quantiles)), make([]measure.Series, len(quantiles))}
		for i := range pick(b, 12, 2) { // many and short, so that what else the machine does spoils few of them
			for turn := range 2 {
				who := (i + turn) % 2
				o.Address = []string{v.redirector.Listen, v.nginx.Address}[who]
				o.Seed = uint64(i)
				r, err := pump.Open(ctx, o)
				if err != nil {
					return nil, err
				}
				if err := r.Err(); err != nil {
					return nil, err
				}
				late = max(late, r.Late)
				for q, at := range quantiles {
					figures[who][q] = append(figures[who][q], float64(r.Waits.ValueAtQuantile(at))/1000)
				}
			}
		}
		for q, at := range quantiles {
			goal := map[float64]float64{99: 1.5, 99.9: 2}[at]
			t.Rows = append(t.Rows, Row{What: fmt.Sprintf("p%v at %.0f %%, µs", at, share*100), Ours: figures[0][q].String(), Peer: "nginx: " + figures[1][q].String(),
				Ratio: figures[0][q].Over(figures[1][q]), Goal: goal})
		}
		b.Say("at %.0f %%: p99 %s µs against %s µs", share*100, figures[0][1], figures[1][1])
	}
	t.Notes = append(t.Notes, fmt.Sprintf("The generator itself was late by %s at most; that is in every figure, the peer's too.", late.Round(10*time.Microsecond)))
	return t, nil
}
