// Package datadir owns a data directory: one process at a time, of one format.
package datadir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Format is the number of the directory's layout that this program reads and writes, kept in the file VERSION.
const Format = 1

// Dir is a data directory that this process owns until Close.
type Dir struct {
	Path string // absolute
	lock *os.File
}

// Open makes the directory if need be and takes it. Another process that holds it is waited for as long as patience says (it
// may be dying), and then named in the error. Every error says in one line what to do.
func Open(ctx context.Context, path string, patience time.Duration) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	}
	// Others may pass through, to what belongs to them: PostgreSQL's files are another user's where root runs this.
	if err := os.MkdirAll(path, 0o711); err != nil {
		return nil, failure(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, failure(path, err)
	}
	d := &Dir{Path: path, lock: lock}
	if err := d.take(ctx, patience); err != nil {
		_ = lock.Close()
		return nil, err
	}
	if err := d.check(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) take(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("data directory %s cannot be locked: %w; use a file system with locks", d.Path, err)
		}
		if time.Now().After(deadline) {
			holder, _ := os.ReadFile(d.lock.Name())
			who := "another process"
			if pid := strings.TrimSpace(string(holder)); pid != "" {
				who = "process " + pid
			}
			return fmt.Errorf("data directory %s is in use by %s: stop it, or choose another directory with --data or SPILLWAY_DATA", d.Path, who)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := d.lock.Truncate(0); err != nil {
		return failure(d.Path, err)
	}
	if _, err := d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return failure(d.Path, err)
	}
	return nil
}

// check compares the directory's format with ours; a new directory gets ours.
func (d *Dir) check() error {
	file := filepath.Join(d.Path, "VERSION")
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		// Written beside and renamed: a full disk must not leave an empty VERSION behind.
		if err := os.WriteFile(file+".new", []byte(strconv.Itoa(Format)+"\n"), 0o644); err != nil {
			_ = os.Remove(file + ".new")
			return failure(d.Path, err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			return failure(d.Path, err)
		}
		return nil
	}
	if err != nil {
		return failure(d.Path, err)
	}
	if found := strings.TrimSpace(string(content)); found != strconv.Itoa(Format) {
		return fmt.Errorf("data directory %s has format %q, this program needs format %d: use the program that made it, or another directory with --data or SPILLWAY_DATA", d.Path, found, Format)
	}
	return nil
}

// Close gives the directory back.
func (d *Dir) Close() error {
	return d.lock.Close()
}

// failure names the cure for what a file system may refuse.
func failure(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("data directory %s is on a full disk: free some space, or choose another directory with --data or SPILLWAY_DATA", path)
	case errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		return fmt.Errorf("data directory %s cannot be written to: change its permissions, or choose another directory with --data or SPILLWAY_DATA", path)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("data directory %s is a file: choose another directory with --data or SPILLWAY_DATA", path)
	}
	return fmt.Errorf("data directory %s: %w", path, err)
}
