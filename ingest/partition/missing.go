package partition

import (
	"time"

	"spillway.dev/ingest/presence"
)

// findings remembers what was found missing and whether Kafka was read again for it.
type findings struct {
	due   bool             // Kafka is to be read from its beginning
	tried time.Time        // when it was, to its end: what is found missing soon afterwards is missing in Kafka too
	vain  presence.Finding // for which it was in vain
	pause time.Duration    // before the next rewind
	after time.Time        // and until when it lasts
}

// judge takes what is missing now and says whether to read Kafka again from its beginning: once for each such finding, and with
// growing pauses where findings keep changing, as they do while a stream announces more than it ships.
func (f *findings) judge(now time.Time, finding presence.Finding, o Options) bool {
	if finding == 0 {
		f.pause = 0
		return false
	}
	if now.Sub(f.tried) < o.Settle+2*o.Look {
		f.vain = finding
	}
	if finding == f.vain || now.Before(f.after) {
		return false
	}
	f.pause = min(max(2*f.pause, o.Settle), time.Hour)
	f.after = now.Add(f.pause)
	f.due = true
	return true
}
