// Package disk is what the journal asks of a file system: one flat directory with files that can be reserved, mapped and
// synced. Directory is the real one. Memory is one that forgets what was not synced and fails on demand, so that a test
// can crash the journal between any two operations, thousands of times a second.
//
// The layer costs nothing where it matters: an append writes into the mapped bytes and makes no call.
package disk

import (
	"errors"
	"io"
)

// ErrLocked is returned by FS.Lock when another process (or another journal of this one) holds the directory.
var ErrLocked = errors.New("directory is locked")

// FS is one directory. Names are plain file names. All methods may be called from several goroutines.
type FS interface {
	// Lock takes the directory for this process until the Closer is closed or the process ends, however it ends.
	// The error wraps ErrLocked, and names the holder if it is known.
	Lock() (io.Closer, error)
	// List returns the names of all files, sorted.
	List() ([]string, error)
	// Create makes a new, empty file and opens it; it is an error if the name exists.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing; the error wraps fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	// Rename moves a file over whatever has the new name.
	Rename(old, new string) error
	// Remove deletes a file; the error wraps fs.ErrNotExist if there is none.
	Remove(name string) error
	// Sync makes the names durable: what was created, renamed and removed before.
	Sync() error
	// String names the directory for people.
	String() string
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the length in bytes.
	Size() (int64, error)
	// Allocate makes the file size bytes long and has the file system really hold the room, so that a later write into the
	// mapped file cannot find the disk full (which would be a SIGBUS). It may be called once, on an empty file. It
	// calls pause, unless that is nil, after each small part of the work.
	Allocate(size int64, pause func()) error
	// Sync makes content and length durable.
	Sync() error
	// Map maps the whole file, shared and writable. The mapping outlives the File.
	Map() (Mapping, error)
}

// Mapping is a mapped file.
type Mapping interface {
	// Bytes is the file's content; writing to it is writing to the file. Invalid after Unmap.
	Bytes() []byte
	// Touch brings the pages that hold [from, to) into memory, writable, so that the next write there does not fault.
	// It is a hint: an error means no more than a slower first write.
	Touch(from, to int) error
	// Sync makes the pages that hold [from, to) durable, and waits for it.
	Sync(from, to int) error
	// Unmap ends the mapping.
	Unmap() error
}

// PageSize is the unit in which mapped content reaches the disk, in bytes.
const PageSize = 4096
