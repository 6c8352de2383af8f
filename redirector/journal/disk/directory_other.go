//go:build unix && !linux

package disk

import "os"

func reserve(f *os.File, size int64) error { return f.Truncate(size) } // the writes that follow reserve

func datasync(f *os.File) error { return f.Sync() }

func populate([]byte) error { return nil }
