package partition

import (
	"context"

	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/presence"
	"spillway.dev/ingest/topic"
)

// begin decides where to read Kafka from: at the commit, or before it where there is a reason. The package's comment lists them.
func (o *Owner) begin(ctx context.Context, term fence.Term, there *presence.Partition) (topic.Position, topic.Bounds, error) {
	fail := func(err error) (topic.Position, topic.Bounds, error) { return topic.Position{}, topic.Bounds{}, err }
	bounds, err := o.Topic.Bounds(ctx, o.partition)
	if err != nil {
		return fail(err)
	}
	commit, committed, err := o.Topic.Committed(ctx, o.partition)
	if err != nil {
		return fail(err)
	}
	earliest := topic.Position{Offset: bounds.Start, Epoch: -1}
	at := earliest
	switch known := commit.Topic != [16]byte{}; {
	case !committed:
		o.log.Info("no commit; beginning at the earliest offset")
	case known && commit.Topic != bounds.Topic:
		o.log.Warn("the topic was deleted and made again; beginning at its earliest offset")
		committed, o.rewind = false, nil
	case there.Streams() == 0 && commit.Offset > bounds.Start:
		o.log.Warn("Kafka was read up to the commit, but the table knows nothing of this partition; beginning at the earliest offset", "commit", commit.Offset)
		committed = false
		// Whoever follows finds some rows here, and must not take the old commit for theirs.
		o.Commit(o.partition, topic.Commit{Position: earliest, Topic: bounds.Topic})
	default:
		at = commit.Position
		agreed, err := o.Topic.Agreed(ctx, o.partition, commit.Position)
		if err != nil {
			return fail(err)
		}
		if agreed < commit.Offset {
			o.log.Warn("the log was cut off below the commit; beginning where it was", "commit", commit.Offset, "cut", agreed)
			at = topic.Position{Offset: agreed, Epoch: -1}
		}
	}
	if at.Offset > bounds.End {
		o.log.Warn("the commit lies beyond the end of the log; beginning at the earliest offset", "commit", at.Offset, "end", bounds.End)
		at, committed = earliest, false
	}
	if at.Offset < bounds.Start {
		o.log.Warn("retention has passed the commit by: what Kafka dropped is lost, unless the table has it", "records", bounds.Start-at.Offset, "from", at.Offset, "to", bounds.Start)
		o.Metrics.passed.Add(float64(bounds.Start - at.Offset))
		at = earliest
	}

	switch {
	case o.asked:
		o.rewindTo(bounds.Start, bounds.End, rewindAsked)
		o.asked = false
	case o.missing.due:
		o.rewindTo(bounds.Start, bounds.End, rewindMissing)
		o.missing.due = false
	case term.Anew():
		from := bounds.Start
		if committed && !commit.Time.IsZero() {
			if from, err = o.Topic.Since(ctx, o.partition, commit.Time.Add(-o.options.Heal)); err != nil {
				return fail(err)
			}
			if from < 0 { // nothing is so young
				from = at.Offset
			}
		}
		o.rewindTo(min(from, at.Offset), bounds.End, rewindStarted)
	}
	if r := o.rewind; r != nil && r.next < at.Offset {
		at = topic.Position{Offset: r.next, Epoch: -1}
	}
	if at.Offset < bounds.Start {
		at = earliest
	}
	return at, bounds, nil
}

// rewindTo notes that everything from an offset on is to be read again. Of two rewinds the longer is kept, and a cause for which Kafka
// must be read from its beginning.
func (o *Owner) rewindTo(from, until int64, cause string) {
	o.Metrics.rewinds.WithLabelValues(cause).Inc()
	if r := o.rewind; r != nil && r.next <= from {
		r.until, r.healed = max(r.until, until), false
		return
	}
	o.rewind = &rewind{cause: cause, next: from, until: until}
	o.log.Info("reading again", "cause", cause, "from", from, "until", until)
}
