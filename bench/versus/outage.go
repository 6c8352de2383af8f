package versus

import (
	"context"
	"fmt"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/pump"
	"spillway.dev/bench/stand"
)

const (
	shippedEvents = "spillway_redirector_shipper_events_total"
	pendingEvents = "spillway_redirector_journal_pending_events"
	droppedEvents = "spillway_redirector_journal_dropped_events_total"
)

// outage kills the broker and brings it back, round after round.
func (b *Bench) outage(ctx context.Context) (*Table, error) {
	const links = 10_000
	v, err := b.visitors(ctx, links)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	var there, away cost
	var catching, arriving measure.Series
	o := pump.Options{Address: v.redirector.Listen, Requests: v.clicks, Wanted: 302, Duration: pick(b, 5*time.Second, 500*time.Millisecond), Processor: others}
	for i := range pick(b, 5, 2) {
		if err := there.round(ctx, v.redirector.ID(), o, nil); err != nil {
			return nil, err
		}
		if err := shipped(ctx, v.redirector); err != nil {
			return nil, err
		}
		v.kafka.Kill()
		if err := away.round(ctx, v.redirector.ID(), o, nil); err != nil {
			return nil, err
		}
		m, err := v.redirector.Metrics()
		if err != nil {
			return nil, err
		}
		if m[pendingEvents] == 0 || m[droppedEvents] > 0 {
			return nil, fmt.Errorf("with the broker away %v events wait and %v were dropped", m[pendingEvents], m[droppedEvents])
		}
		if err := v.kafka.Again(ctx, nil); err != nil {
			return nil, err
		}
		rate, err := v.catchUp(ctx)
		if err != nil {
			return nil, err
		}
		catching, arriving = append(catching, rate), append(arriving, there.rate[i]/2)
		b.Say("round %d: %s/s there, %s/s away, catching up with %s/s", i+1, measure.Number(there.rate[i]), measure.Number(away.rate[i]), measure.Number(rate))
	}
	return &Table{Title: "The broker is away", How: "The redirector is kept busy while the broker runs, and again after kill -9 of the broker. Then the broker comes back, " +
		"and the journal's backlog is shipped by the redirector's one processor while nobody clicks.",
		Rows: []Row{
			{What: "requests/s, broker away", Ours: away.rate.String(), Peer: "broker there: " + there.rate.String(), Ratio: away.rate.Over(there.rate), Goal: -0.98},
			{What: "CPU a request, µs, broker away", Ours: away.cpu.String(), Peer: there.cpu.String(), Ratio: away.cpu.Over(there.cpu)},
			{What: "events/s shipped when it is back", Ours: catching.String(), Peer: "arrivals at 50 % of capacity: " + arriving.String(), Ratio: catching.Over(arriving), Goal: -10},
		}, Notes: []string{fmt.Sprintf("Shipping alone takes %.2f µs an event, so the backlog of an hour's outage at half load is gone in %.0f minutes.",
			1e6/catching.Median(), 60*arriving.Median()/catching.Median())}}, nil
}

// catchUp returns the events a second that are shipped from the first acknowledgement until nothing is left.
func (v *visitors) catchUp(ctx context.Context) (float64, error) {
	m, err := v.redirector.Metrics()
	if err != nil {
		return 0, err
	}
	before, first := m[shippedEvents], time.Now()
	begun, rate := false, 0.0
	err = stand.Until(ctx, "catch up", 2*time.Minute, 5*time.Millisecond, func() (bool, error) {
		now := time.Now()
		m, err := v.redirector.Metrics()
		if err != nil {
			return false, err
		}
		if begun = begun || m[shippedEvents] > before; !begun {
			first = now // the last time that nothing was acknowledged yet
		}
		if m[pendingEvents] > 0 {
			return false, nil
		}
		rate = (m[shippedEvents] - before) / time.Since(first).Seconds()
		return true, nil
	})
	return rate, err
}

// viral compares a redirector that is asked for one link with one that is asked for ten thousand; ingest has the same row of its own.
func (b *Bench) viral(ctx context.Context) (*Table, error) {
	const links = 10_000
	v, err := b.visitors(ctx, links)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	one, err := clicks(ctx, 1, 20_000)
	if err != nil {
		return nil, err
	}
	var spread, alone cost
	o := pump.Options{Address: v.redirector.Listen, Wanted: 302, Duration: pick(b, 4*time.Second, 500*time.Millisecond), Processor: others}
	for i := range pick(b, 5, 2) {
		for turn := range 2 {
			c := &spread
			o.Requests = v.clicks
			if (i+turn)%2 == 1 {
				c, o.Requests = &alone, one
			}
			if err := c.round(ctx, v.redirector.ID(), o, func() error { return shipped(ctx, v.redirector) }); err != nil {
				return nil, err
			}
		}
		b.Say("round %d: %s/s one link, %s/s many", i+1, measure.Number(alone.rate[i]), measure.Number(spread.rate[i]))
	}
	t := &Table{Title: "One viral link", How: "The same visitors, all on one link, against Zipf over 10 000 links; the redirector on one processor. " +
		"For ingest the same events are brought from Kafka to ClickHouse, all of one link or of 10 000 links of 1000 profiles.",
		Rows: []Row{
			{What: "redirects/s", Ours: alone.rate.String(), Peer: "10 000 links: " + spread.rate.String(), Ratio: alone.rate.Over(spread.rate), Goal: -0.95},
			{What: "CPU a request, µs", Ours: alone.cpu.String(), Peer: spread.cpu.String(), Ratio: alone.cpu.Over(spread.cpu)},
		}}
	v.Close()
	row, err := b.viralIngest(ctx)
	if err != nil {
		return nil, err
	}
	t.Rows = append(t.Rows, row)
	return t, nil
}
