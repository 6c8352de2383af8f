package event

// Lanes says how the events of one stream are laid over the partitions of the topic: event k, counted from 1, goes to
// partition ((k-1)/Run) mod Partitions, so that a batch is full and a viral link makes no hot partition. Both numbers are
// fixed when the stream begins. Within a partition the stream's events are numbered 1, 2, 3 …: that number is the sequence,
// and (stream, partition, sequence) names an event for ever.
type Lanes struct {
	Partitions uint32 // at least 1
	Run        uint32 // events in a row that go to the same partition; at least 1
}

// Place returns the partition and the sequence within it of event k (k ≥ 1).
func (l Lanes) Place(k uint64) (partition uint32, sequence uint64) {
	run := (k - 1) / uint64(l.Run)
	partition = uint32(run % uint64(l.Partitions))
	sequence = run/uint64(l.Partitions)*uint64(l.Run) + (k-1)%uint64(l.Run) + 1
	return partition, sequence
}

// Event returns k, the number within the stream, of the event at a partition's sequence (sequence ≥ 1). It is the inverse of Place.
func (l Lanes) Event(partition uint32, sequence uint64) uint64 {
	run := (sequence-1)/uint64(l.Run)*uint64(l.Partitions) + uint64(partition)
	return run*uint64(l.Run) + (sequence-1)%uint64(l.Run) + 1
}

// Last returns the highest sequence of a partition among the stream's events 1 … k; zero if there is none.
func (l Lanes) Last(partition uint32, k uint64) uint64 {
	full := k / uint64(l.Run) // whole runs
	last := (full / uint64(l.Partitions)) * uint64(l.Run)
	switch next := full % uint64(l.Partitions); {
	case uint64(partition) < next:
		last += uint64(l.Run)
	case uint64(partition) == next:
		last += k % uint64(l.Run)
	}
	return last
}
