package versus

import (
	"context"
	"fmt"
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
	ours, theirs, err := v.against(ctx, v.clicks, 302)
	if err != nil {
		return nil, err
	}
	return &Table{Title: "A recorded redirect", How: how, Rows: v.rows(ours, theirs, 1.0), Notes: []string{kernel(ours, theirs)}}, nil
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
	ours, theirs, err := v.against(ctx, v.views, 200)
	if err != nil {
		return nil, err
	}
	return &Table{Title: "A profile page from the cache, recorded",
		How:   fmt.Sprintf("A page of 20 links, %d bytes, against nginx serving a file of the same bytes (sendfile, open_file_cache, buffered access log). ", len(page)) + how,
		Rows:  v.rows(ours, theirs, 1.1),
		Notes: []string{kernel(ours, theirs)}}, nil
}

func (v *visitors) rows(ours, theirs cost, goal float64) []Row {
	return []Row{
		{What: "CPU a request, µs", Ours: ours.cpu.String(), Peer: v.nginx.Version + ": " + theirs.cpu.String(), Ratio: ours.cpu.Over(theirs.cpu), Goal: goal},
		{What: "… of which the kernel's", Ours: ours.system.String(), Peer: theirs.system.String(), Ratio: ours.system.Over(theirs.system)},
		{What: "requests/s on one processor", Ours: ours.rate.String(), Peer: theirs.rate.String(), Ratio: ours.rate.Over(theirs.rate)},
	}
}

func kernel(ours, theirs cost) string {
	own := func(c cost) float64 { return c.cpu.Median() - c.system.Median() }
	return fmt.Sprintf("Outside the kernel a request takes %.1f µs here and %.1f µs in nginx; reading, writing and waking (the kernel's part) take %.1f and %.1f µs.",
		own(ours), own(theirs), ours.system.Median(), theirs.system.Median())
}
