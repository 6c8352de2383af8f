// Package store keeps an export's files: in a directory, or in an object store (S3 and what speaks its protocol).
//
// What it promises is what an export needs and both kinds can give: a file appears whole or not at all, a file can be made only
// if it is not there yet, and what was committed stays after a crash.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// ErrExists is wrapped by what CreateNew returns when the file is there already.
var ErrExists = errors.New("exists already")

// ErrNotFound is wrapped by what Read and Stat return when there is no such file.
var ErrNotFound = errors.New("not found")

// Object is a file as a listing shows it.
type Object struct {
	Path string    // relative to the store's root, with slashes
	Size int64     // bytes
	Time time.Time // of the last change
}

// Unfinished is the folder of what is being written to a directory, or was when its writer was killed: each is named as the file it
// was to be, a dot and a random word.
const Unfinished = ".unfinished"

// Store is where files are kept. Paths are relative, with slashes. It is safe for use by several goroutines.
type Store interface {
	// Create begins a file that appears with Commit, whole. It replaces one of the same path.
	Create(ctx context.Context, path string) (Writer, error)
	// CreateNew makes a file whole if there is none of this path, else it returns ErrExists; of several at once, in whichever
	// processes, one succeeds. After any other error the file may appear or not, now or later.
	CreateNew(ctx context.Context, path string, data []byte) error
	// Read opens a file, or returns ErrNotFound.
	Read(ctx context.Context, path string) (io.ReadCloser, error)
	// Stat returns a file's size and time, or ErrNotFound.
	Stat(ctx context.Context, path string) (Object, error)
	// List calls f with each file whose path begins with prefix, in the order of their paths.
	List(ctx context.Context, prefix string, f func(Object) error) error
	// Remove removes a file; one that is not there is no error.
	Remove(ctx context.Context, path string) error
	// CheckExclusive returns an error, with the cure, if this store does not keep CreateNew's promise.
	CheckExclusive(ctx context.Context) error
	Close() error
	// String is the store's address, without secrets.
	String() string
}

// Writer writes one file. Exactly one of Commit and Abort ends it.
type Writer interface {
	io.Writer
	// Commit makes the file appear; afterwards it survives a crash.
	Commit() error
	// Abort gives it up.
	Abort()
}

// Open opens the store at an address: a directory's path, file:///path, or s3://bucket/prefix?region=…&endpoint=… with the
// options of gocloud.dev's s3blob and the credentials of the AWS SDK's environment.
func Open(ctx context.Context, address string) (Store, error) {
	if address == "" {
		return nil, errors.New("no place to export to: give a directory or s3://BUCKET/PREFIX (--to or SPILLWAY_EXPORT_TO)")
	}
	scheme, _, found := strings.Cut(address, "://")
	if !found {
		return OpenDirectory(address)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("export to %q: not an address: %w", address, err)
	}
	switch scheme {
	case "file":
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("export to %q: write file:///PATH, or the path alone", address)
		}
		return OpenDirectory(u.Path)
	case "s3":
		return OpenBucket(ctx, u)
	}
	return nil, fmt.Errorf("export to %q: give a directory or s3://BUCKET/PREFIX", address)
}

// ReadAll reads a small file.
func ReadAll(ctx context.Context, s Store, path string) ([]byte, error) {
	r, err := s.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// Replace writes a small file, over one of the same path.
func Replace(ctx context.Context, s Store, path string, data []byte) error {
	w, err := s.Create(ctx, path)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return w.Commit()
}
