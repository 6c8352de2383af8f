package partition

import (
	"time"

	"spillway.dev/ingest/presence"
)

// findings remembers what was found missing and whether Kafka was read again for it.
type findings struct {
	due   bool             // Kafka is to be read from its beginning
	vain  presence.Finding // for which it was in vain
	pause time.Duration    // before the next rewind
	after time.Time        // and until when it lasts
}

// judge takes what is missing now and says whether to read Kafka again from its beginning: once for each such finding, and with
// growing pauses where findings keep changing, as they do while a stream announces more than it ships. whole says that Kafka was
// read from its beginning since the table was: what is missing all the same is missing in Kafka.
func (f *findings) judge(now time.Time, finding presence.Finding, whole bool, settle time.Duration) bool {
	switch {
	case finding == 0:
		f.pause = 0
		return false
	case whole:
		f.vain = finding
		return false
	case finding == f.vain || now.Before(f.after):
		return false
	}
	f.pause = min(max(2*f.pause, settle), time.Hour)
	f.after = now.Add(f.pause)
	f.due = true
	return true
}
