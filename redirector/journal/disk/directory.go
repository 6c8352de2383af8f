package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"spillway.dev/redirector/aside"
)

// Directory is a directory of the real file system.
type Directory struct{ path string }

// OpenDirectory returns the directory at path, made if it does not exist.
func OpenDirectory(path string) (*Directory, error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, fmt.Errorf("make journal directory: %w", err)
	}
	return &Directory{path: path}, nil
}

func (d *Directory) String() string { return d.path }

func (d *Directory) join(name string) string { return filepath.Join(d.path, name) }

// holder is the file that says, for people only, which process has the lock. The lock itself is on the directory, so that
// taking it needs no room on a full disk.
const holder = "lock"

type lock struct {
	dir  *os.File
	file string
}

func (l *lock) Close() error {
	_ = os.Remove(l.file) // only a note for people
	return l.dir.Close()
}

// Lock implements FS.
func (d *Directory) Lock() (io.Closer, error) {
	dir, err := os.Open(d.path)
	if err != nil {
		return nil, fmt.Errorf("open directory to lock it: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock directory: %w", err)
		}
		by := "another process"
		if text, err := os.ReadFile(d.join(holder)); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				by = fmt.Sprintf("process %d", pid)
			}
		}
		return nil, fmt.Errorf("%w: held by %s", ErrLocked, by)
	}
	// Not being able to leave the note (a full disk) is no reason to turn visitors away.
	_ = os.WriteFile(d.join(holder), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o640)
	return &lock{dir: dir, file: d.join(holder)}, nil
}

// List implements FS.
func (d *Directory) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Create implements FS.
func (d *Directory) Create(name string) (File, error) {
	f, err := os.OpenFile(d.join(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	return &file{f}, nil
}

// Open implements FS.
func (d *Directory) Open(name string) (File, error) {
	f, err := os.OpenFile(d.join(name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &file{f}, nil
}

// Rename implements FS.
func (d *Directory) Rename(old, new string) error { return os.Rename(d.join(old), d.join(new)) }

// Remove implements FS.
func (d *Directory) Remove(name string) error { return os.Remove(d.join(name)) }

// Sync implements FS.
func (d *Directory) Sync() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return aside.Do(dir.Sync)
}

type file struct{ *os.File }

func (f *file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Allocate reserves the blocks and then writes every page through write(): on a file system that reserves lazily the write
// fails where a store into the mapping would have killed the process.
func (f *file) Allocate(size int64, pause func()) error {
	if err := aside.Do(func() error { return reserve(f.File, size) }); err != nil {
		return fmt.Errorf("reserve %d bytes: %w", size, err)
	}
	zeros := make([]byte, 64<<10)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return fmt.Errorf("touch reserved bytes: %w", err)
		}
		if pause != nil {
			pause()
		}
	}
	return nil
}

func (f *file) Sync() error { return aside.Do(func() error { return datasync(f.File) }) }

func (f *file) Map() (Mapping, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return &mapping{}, nil // an empty file cannot be mapped, and has nothing to read
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", filepath.Base(f.Name()), err)
	}
	return &mapping{b}, nil
}

type mapping struct{ b []byte }

func (m *mapping) Bytes() []byte { return m.b }

// pages widens [from, to) to whole pages inside the mapping.
func (m *mapping) pages(from, to int) []byte {
	from = max(from, 0) &^ (PageSize - 1)
	to = min((to+PageSize-1)&^(PageSize-1), len(m.b))
	if from >= to {
		return nil
	}
	return m.b[from:to]
}

func (m *mapping) Touch(from, to int) error { return populate(m.pages(from, to)) }

func (m *mapping) Sync(from, to int) error {
	b := m.pages(from, to)
	if len(b) == 0 {
		return nil
	}
	return aside.Do(func() error { return unix.Msync(b, unix.MS_SYNC) })
}

func (m *mapping) Unmap() error {
	if m.b == nil {
		return nil
	}
	b := m.b
	m.b = nil
	return unix.Munmap(b)
}
