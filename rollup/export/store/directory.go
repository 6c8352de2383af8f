package store

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Directory is a store in a local directory. A file is written in the folder of Unfinished, flushed to the disk and then renamed or
// linked into its place, with the place's folder flushed too: gocloud's fileblob does neither, and its conditional write holds within
// one process only.
type Directory struct {
	root string
}

// OpenDirectory opens a directory, which is made with its first file.
func OpenDirectory(root string) (*Directory, error) {
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", root, err)
	}
	if info, err := os.Stat(absolute); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("export to %s: it is a file: give a directory", root)
	}
	return &Directory{root: absolute}, nil
}

// makeDirectory makes a directory and its parents, each of them flushed into its own parent.
func makeDirectory(path string) error {
	info, err := os.Stat(path)
	if err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is a file: give a directory", path)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDirectory(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return flushDirectory(parent)
}

func flushDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// String is the directory's path.
func (d *Directory) String() string { return d.root }

// Close does nothing.
func (d *Directory) Close() error { return nil }

// CheckExclusive tries a hard link, on which CreateNew is built.
func (d *Directory) CheckExclusive(ctx context.Context) error {
	probe := "probe-" + rand.Text()[:12]
	if err := d.CreateNew(ctx, probe, nil); err != nil {
		return err
	}
	defer func() { _ = d.Remove(ctx, probe) }()
	switch err := d.CreateNew(ctx, probe, nil); {
	case errors.Is(err, ErrExists):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s: the file system let the same file be made twice: choose a directory on a local disk", d.root)
}

func (d *Directory) place(path string) (string, error) {
	if !filepath.IsLocal(filepath.FromSlash(path)) {
		return "", fmt.Errorf("path %q leaves the export's directory", path)
	}
	return filepath.Join(d.root, filepath.FromSlash(path)), nil
}

// Create begins a file.
func (d *Directory) Create(_ context.Context, path string) (Writer, error) {
	return d.create(path)
}

func (d *Directory) create(path string) (*fileWriter, error) {
	place, err := d.place(path)
	if err != nil {
		return nil, err
	}
	unfinished := filepath.Join(d.root, Unfinished)
	for _, folder := range []string{filepath.Dir(place), unfinished} {
		if err := makeDirectory(folder); err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
	}
	f, err := os.OpenFile(filepath.Join(unfinished, filepath.Base(place)+"."+rand.Text()[:12]), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &fileWriter{path: path, place: place, file: f, buffer: bufio.NewWriterSize(f, 1<<20)}, nil
}

type fileWriter struct {
	path, place string
	file        *os.File
	buffer      *bufio.Writer
}

func (w *fileWriter) Write(p []byte) (int, error) { return w.buffer.Write(p) }

// flush brings the content to the disk and closes the file.
func (w *fileWriter) flush() error {
	err := w.buffer.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	if closing := w.file.Close(); err == nil {
		err = closing
	}
	return err
}

func (w *fileWriter) Commit() error {
	err := w.flush()
	if err == nil {
		err = os.Rename(w.file.Name(), w.place)
	}
	if err == nil {
		err = flushDirectory(filepath.Dir(w.place))
	}
	if err != nil {
		_ = os.Remove(w.file.Name())
		return fmt.Errorf("write %s: %w", w.path, err)
	}
	return nil
}

func (w *fileWriter) Abort() {
	_ = w.file.Close()
	_ = os.Remove(w.file.Name())
}

// CreateNew makes a file if there is none: link(2) fails if the name is taken, on every POSIX file system.
func (d *Directory) CreateNew(_ context.Context, path string, data []byte) error {
	w, err := d.create(path)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = w.flush()
	if err == nil {
		err = os.Link(w.file.Name(), w.place)
	}
	_ = os.Remove(w.file.Name())
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w", path, ErrExists)
	}
	if err == nil {
		err = flushDirectory(filepath.Dir(w.place))
	}
	if err != nil {
		return fmt.Errorf("make %s: %w (the directory must be on a file system with hard links)", path, err)
	}
	return nil
}

// Read opens a file.
func (d *Directory) Read(_ context.Context, path string) (io.ReadCloser, error) {
	place, err := d.place(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return f, nil
}

// Stat returns a file's size.
func (d *Directory) Stat(_ context.Context, path string) (Object, error) {
	place, err := d.place(path)
	if err != nil {
		return Object{}, err
	}
	info, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return Object{}, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	if err != nil {
		return Object{}, fmt.Errorf("look at %s: %w", path, err)
	}
	return Object{Path: path, Size: info.Size(), Time: info.ModTime()}, nil
}

// List walks the part of the tree that can hold the prefix.
func (d *Directory) List(ctx context.Context, prefix string, f func(Object) error) error {
	from := d.root
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		var err error
		if from, err = d.place(prefix[:i]); err != nil {
			return err
		}
	}
	err := filepath.WalkDir(from, func(place string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the folder is not there, or the file was removed meanwhile
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return ctx.Err()
		}
		relative, err := filepath.Rel(d.root, place)
		if err != nil {
			return err
		}
		path := filepath.ToSlash(relative)
		if !strings.HasPrefix(path, prefix) {
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return f(Object{Path: path, Size: info.Size(), Time: info.ModTime()})
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	return nil
}

// Remove removes a file.
func (d *Directory) Remove(_ context.Context, path string) error {
	place, err := d.place(path)
	if err != nil {
		return err
	}
	if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
