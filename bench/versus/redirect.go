package versus

import (
	"context"
	"fmt"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/peer"
)

const how = "64 connections kept busy from the other processor, real user agents and referrers, Zipf over 10 000 links. CPU is the kernel's account of the " +
	"whole process: answering, journaling and shipping to Kafka until the last event is acknowledged, against answering and a buffered access log. "

func (b *Bench) redirect(ctx context.Context) (*Table, error) {
	const links = 10_000
	v, err := b.visitors(ctx, links)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if err := v.withNginx(ctx, links); err != nil {
		return nil, err
	}
	ours, theirs := v.ours(), v.theirs()
	sides := []*side{ours, theirs}
	bare := map[string]*side{}
	for _, ground := range []string{peer.Fasthttp, peer.Net} {
		p, err := peer.StartBare(ctx, v.Stand, server, ground)
		if err != nil {
			return nil, err
		}
		bare[ground] = &side{name: ground + " alone", address: p.Address, id: p.ID()}
		sides = append(sides, bare[ground])
	}
	if err := v.compare(ctx, "redirect", v.clicks, 302, sides...); err != nil {
		return nil, err
	}
	t := &Table{Title: "A recorded redirect", How: how + "Both do so on the same processor, one at a time. ", Rows: v.rows(ours, theirs, 1.0), Notes: []string{kernel(ours, theirs)}}
	for _, ground := range []string{peer.Fasthttp, peer.Net} {
		s := bare[ground]
		t.Rows = append(t.Rows, Row{What: "CPU a request of " + ground + " alone, µs", Ours: s.cpu.String(), Peer: theirs.cpu.String(), Ratio: s.cpu.Over(theirs.cpu)})
	}
	t.Notes = append(t.Notes, fmt.Sprintf("The floor: a fasthttp server that gives everybody the same redirect, without looking anything up, recording anything or minding any time takes %s µs, "+
		"a bare loop of reading and writing with Go's net package, without HTTP, %s µs.", measure.Number(bare[peer.Fasthttp].cpu.Median()), measure.Number(bare[peer.Net].cpu.Median())))
	return t, nil
}

func (b *Bench) page(ctx context.Context) (*Table, error) {
	const links = 20
	v, err := b.visitors(ctx, links)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if err := v.withNginx(ctx, links); err != nil {
		return nil, err
	}
	page, err := get("http://" + v.redirector.Listen + "/" + handle)
	if err != nil {
		return nil, err
	}
	ours, theirs := v.ours(), v.theirs()
	if err := v.compare(ctx, "page", v.views, 200, ours, theirs); err != nil {
		return nil, err
	}
	return &Table{Title: "A profile page from the cache, recorded",
		How:   fmt.Sprintf("A page of 20 links, %d bytes, against nginx serving a file of the same bytes (sendfile, open_file_cache, buffered access log). ", len(page)) + how,
		Rows:  v.rows(ours, theirs, 1.1),
		Notes: []string{kernel(ours, theirs)}}, nil
}

func (v *visitors) rows(ours, theirs *side, goal float64) []Row {
	rows := []Row{
		{What: "CPU a request, µs", Ours: ours.cpu.String(), Peer: v.nginx.Version + ": " + theirs.cpu.String(), Ratio: ours.cpu.Over(theirs.cpu), Goal: goal},
		{What: "… of which the kernel's", Ours: ours.system.String(), Peer: theirs.system.String(), Ratio: ours.system.Over(theirs.system)},
		{What: "requests/s on one processor", Ours: ours.rate.String(), Peer: theirs.rate.String(), Ratio: ours.rate.Over(theirs.rate)},
	}
	if before := v.before; before != nil {
		rows = append(rows,
			Row{What: "CPU a request, µs, against the program before", Ours: ours.cpu.String(), Peer: "before: " + before.cpu.String(), Ratio: ours.cpu.Over(before.cpu)},
			Row{What: "CPU a request, µs, of the program before", Ours: before.cpu.String(), Peer: theirs.cpu.String(), Ratio: before.cpu.Over(theirs.cpu)})
	}
	return rows
}

func kernel(ours, theirs *side) string {
	own := func(c cost) float64 { return c.cpu.Median() - c.system.Median() }
	return fmt.Sprintf("Outside the kernel a request takes %.1f µs here and %.1f µs in nginx; reading, writing and waking (the kernel's part) take %.1f and %.1f µs.",
		own(ours.cost), own(theirs.cost), ours.system.Median(), theirs.system.Median())
}
