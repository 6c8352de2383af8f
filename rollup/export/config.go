package export

import (
	"fmt"
	"time"

	"spillway.dev/rollup/export/manifest"
)

// maxEvents bounds a cut so that even events of the greatest size fit into the files of one manifest.
const maxEvents = 200_000_000

// Config says what is exported and where to.
type Config struct {
	To       string        `name:"to" env:"SPILLWAY_EXPORT_TO" placeholder:"DIR|s3://BUCKET/PREFIX" help:"Where the files go: a directory, or an S3-compatible object store (?region=…&endpoint=…&use_path_style=true; credentials as the AWS SDK finds them)."`
	Every    time.Duration `name:"every" env:"SPILLWAY_EXPORT_EVERY" placeholder:"15m" help:"Go on, with a cut so often. Not given: export what is there, once, and end."`
	Since    string        `name:"since" env:"SPILLWAY_EXPORT_SINCE" placeholder:"TIME" help:"Only events from this time on (2026-01-31 or 2026-01-31T12:00:00Z). Such an export needs a place of its own, and keeps its limits for ever."`
	Until    string        `name:"until" env:"SPILLWAY_EXPORT_UNTIL" placeholder:"TIME" help:"Only events before this time. As with --since."`
	Iceberg  bool          `name:"iceberg" env:"SPILLWAY_EXPORT_ICEBERG" help:"Also keep Apache Iceberg tables over the files, in the folder iceberg. Only where the files go to a directory."`
	Hold     time.Duration `name:"hold" env:"SPILLWAY_EXPORT_HOLD" default:"24h" help:"How long events wait for a gap before them in their stream to be filled. What fills it later is in a later cut. 0: for ever."`
	Events   uint64        `name:"cut-events" env:"SPILLWAY_EXPORT_CUT_EVENTS" default:"20000000" help:"Most events of one cut. A run that is killed goes on after the last cut."`
	FileSize int64         `name:"file-bytes" env:"SPILLWAY_EXPORT_FILE_BYTES" default:"150000000" help:"Bytes at which a file is ended, if two thirds of that are left for another."`
}

// check returns the chain's scope, and an error with its cure.
func (c *Config) check() (manifest.Scope, error) {
	var scope manifest.Scope
	var err error
	if c.Events == 0 {
		c.Events = 20_000_000
	}
	if c.FileSize == 0 {
		c.FileSize = 150_000_000
	}
	switch {
	case c.Every < 0 || c.Every > 0 && c.Every < time.Second:
		return scope, fmt.Errorf("--every %s: use a second or more", c.Every)
	case c.Hold < 0:
		return scope, fmt.Errorf("--hold %s: use 0 (for ever) or more", c.Hold)
	case c.Events > maxEvents:
		return scope, fmt.Errorf("--cut-events %d: use at most %d, so that a cut's files fit into one manifest", c.Events, maxEvents)
	case c.FileSize < 1_000_000 || c.FileSize > 1_000_000_000:
		return scope, fmt.Errorf("--file-bytes %d: use 1 MB to 1 GB", c.FileSize)
	}
	if scope.Since, err = parseTime("--since", c.Since); err != nil {
		return scope, err
	}
	if scope.Until, err = parseTime("--until", c.Until); err != nil {
		return scope, err
	}
	if scope.Since != nil && scope.Until != nil && !scope.Since.Before(*scope.Until) {
		return scope, fmt.Errorf("--since %s is not before --until %s", c.Since, c.Until)
	}
	return scope, nil
}

// parseTime reads a date (its midnight, UTC) or a time.
func parseTime(flag, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339Nano} {
		if t, err := time.Parse(form, text); err == nil {
			t = t.UTC()
			return &t, nil
		}
	}
	return nil, fmt.Errorf("%s %q: use a date (2026-01-31, from midnight UTC) or a time (2026-01-31T12:00:00Z)", flag, text)
}
