package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// Operation names one call to a Memory, for its Fault hook.
type Operation string

// The operations that can fail.
const (
	OpList     Operation = "list"
	OpCreate   Operation = "create"
	OpOpen     Operation = "open"
	OpRename   Operation = "rename"
	OpRemove   Operation = "remove"
	OpSyncDir  Operation = "sync directory"
	OpRead     Operation = "read"
	OpWrite    Operation = "write"
	OpAllocate Operation = "allocate"
	OpSync     Operation = "sync file"
	OpMap      Operation = "map"
	OpSyncMap  Operation = "sync mapping"
)

// Memory is a strict file system in memory. It keeps, beside what a process sees, what would be on the disk if the power
// failed now: content as of the last sync of its pages, names as of the last sync of the directory.
type Memory struct {
	// Fault, if set, is asked before each operation; an error makes it fail without effect. It is called without the
	// Memory's lock held, so it may Crash it.
	Fault func(op Operation, name string) error
	// Lies has every sync succeed without effect, as a disk with a careless cache does: a test that must then fail shows that it can.
	Lies bool
	// Capacity bounds the sum of all files, in bytes. Zero: no bound.
	Capacity int64

	mu      sync.Mutex
	names   map[string]*inode // as a process sees them
	durable map[string]*inode // as they are on the disk
	pending []change          // what was done to names since the last Sync, in order
	locked  bool
}

type inode struct {
	data   []byte
	synced []byte // content on the disk; its length is the length on the disk
}

type change struct {
	old, new string // new empty: removed; old empty: created
	node     *inode
}

// NewMemory returns an empty directory.
func NewMemory() *Memory {
	return &Memory{names: map[string]*inode{}, durable: map[string]*inode{}}
}

func (m *Memory) String() string { return "memory" }

func (m *Memory) fault(op Operation, name string) error {
	if m.Fault == nil {
		return nil
	}
	if err := m.Fault(op, name); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// Kill returns the directory as the next process finds it after a kill -9 of this one: the page cache is the kernel's, so
// nothing is forgotten.
func (m *Memory) Kill() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.copyOf(m.names, m.durable, m.pending, func(n *inode) *inode {
		return &inode{data: slices.Clone(n.data), synced: slices.Clone(n.synced)}
	})
}

// Cut returns the directory as it is found after a power failure. Each page of each file has its synced content, its newest
// content or a mixture by sectors; each change of a name since the last Sync happened or did not. What was synced is there.
func (m *Memory) Cut(r *rand.Rand) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[string]*inode{}
	for name, n := range m.durable {
		names[name] = n
	}
	for _, c := range m.pending {
		if r.IntN(2) == 0 {
			continue
		}
		switch {
		case c.new == "":
			delete(names, c.old)
		case c.old == "":
			names[c.new] = c.node
		case names[c.old] == c.node:
			delete(names, c.old)
			names[c.new] = c.node
		}
	}
	return m.copyOf(names, names, nil, func(n *inode) *inode {
		data := tear(n, r)
		return &inode{data: data, synced: slices.Clone(data)}
	})
}

const sector = 512

func tear(n *inode, r *rand.Rand) []byte {
	length := len(n.synced)
	if len(n.data) != length && r.IntN(2) == 0 {
		length = len(n.data)
	}
	b := make([]byte, length)
	copy(b, n.synced)
	for at := 0; at < length; at += PageSize {
		end := min(at+PageSize, length)
		switch r.IntN(3) {
		case 0:
		case 1:
			copyAt(b[at:end], n.data, at)
		case 2:
			for s := at; s < end; s += sector {
				if r.IntN(2) == 0 {
					copyAt(b[s:min(s+sector, end)], n.data, s)
				}
			}
		}
	}
	return b
}

func copyAt(dst, src []byte, at int) {
	if at < len(src) {
		copy(dst, src[at:])
	}
}

// copyOf makes a Memory whose files are clones: names as a process sees them, durable and pending as on the disk.
func (m *Memory) copyOf(names, durable map[string]*inode, pending []change, clone func(*inode) *inode) *Memory {
	c := NewMemory()
	c.Capacity, c.Lies = m.Capacity, m.Lies
	made := map[*inode]*inode{}
	add := func(n *inode) *inode {
		if n != nil && made[n] == nil {
			made[n] = clone(n)
		}
		return made[n]
	}
	for _, name := range sorted(names) { // in a fixed order, so that a seed tears the same way every time
		c.names[name] = add(names[name])
	}
	for _, name := range sorted(durable) {
		c.durable[name] = add(durable[name])
	}
	for _, p := range pending {
		p.node = add(p.node)
		c.pending = append(c.pending, p)
	}
	return c
}

func sorted(names map[string]*inode) []string {
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// Content returns the bytes of a file as a process sees them, for a test to damage: nil if there is none. They are the
// bytes, not a copy.
func (m *Memory) Content(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.names[name]; n != nil {
		return n.data
	}
	return nil
}

// Shorten cuts a file, as a careless hand or a broken copy does.
func (m *Memory) Shorten(name string, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.names[name]; n != nil && size < len(n.data) {
		n.data = n.data[:size]
		n.synced = n.synced[:min(size, len(n.synced))]
	}
}

type memoryLock struct{ m *Memory }

func (l memoryLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.locked = false
	return nil
}

// Lock implements FS.
func (m *Memory) Lock() (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, fmt.Errorf("%w: held by this process", ErrLocked)
	}
	m.locked = true
	return memoryLock{m}, nil
}

// List implements FS.
func (m *Memory) List() ([]string, error) {
	if err := m.fault(OpList, "."); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return sorted(m.names), nil
}

// Create implements FS.
func (m *Memory) Create(name string) (File, error) {
	if err := m.fault(OpCreate, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n := &inode{}
	m.names[name] = n
	m.pending = append(m.pending, change{new: name, node: n})
	return &memoryFile{m: m, name: name, n: n}, nil
}

// Open implements FS.
func (m *Memory) Open(name string) (File, error) {
	if err := m.fault(OpOpen, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.names[name]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryFile{m: m, name: name, n: n}, nil
}

// Rename implements FS.
func (m *Memory) Rename(old, new string) error {
	if err := m.fault(OpRename, old); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.names[old]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: old, Err: fs.ErrNotExist}
	}
	delete(m.names, old)
	m.names[new] = n
	m.pending = append(m.pending, change{old: old, new: new, node: n})
	return nil
}

// Remove implements FS.
func (m *Memory) Remove(name string) error {
	if err := m.fault(OpRemove, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(m.names, name)
	m.pending = append(m.pending, change{old: name})
	return nil
}

// Sync implements FS.
func (m *Memory) Sync() error {
	if err := m.fault(OpSyncDir, "."); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Lies {
		return nil
	}
	m.durable = map[string]*inode{}
	for name, n := range m.names {
		m.durable[name] = n
	}
	m.pending = nil
	return nil
}

func (m *Memory) usedLocked() (sum int64) {
	for _, n := range m.names {
		sum += int64(len(n.data))
	}
	return sum
}

type memoryFile struct {
	m    *Memory
	name string
	n    *inode
}

func (f *memoryFile) Close() error { return nil }

func (f *memoryFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) {
	if err := f.m.fault(OpRead, f.name); err != nil {
		return 0, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if at >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.m.fault(OpWrite, f.name); err != nil {
		return 0, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if grown := at + int64(len(b)) - int64(len(f.n.data)); grown > 0 {
		if f.m.Capacity > 0 && f.m.usedLocked()+grown > f.m.Capacity {
			return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
		f.n.data = append(f.n.data, make([]byte, grown)...)
	}
	return copy(f.n.data[at:], b), nil
}

func (f *memoryFile) Allocate(size int64, _ func()) error {
	if err := f.m.fault(OpAllocate, f.name); err != nil {
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if len(f.n.data) != 0 {
		return errors.New("BUG: allocate a file that is not empty")
	}
	if f.m.Capacity > 0 && f.m.usedLocked()+size > f.m.Capacity {
		return &fs.PathError{Op: "allocate", Path: f.name, Err: syscall.ENOSPC}
	}
	f.n.data = make([]byte, size)
	return nil
}

func (f *memoryFile) Sync() error {
	if err := f.m.fault(OpSync, f.name); err != nil {
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.Lies {
		return nil
	}
	f.n.synced = append(f.n.synced[:0], f.n.data...)
	return nil
}

func (f *memoryFile) Map() (Mapping, error) {
	if err := f.m.fault(OpMap, f.name); err != nil {
		return nil, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return &memoryMapping{f: f, b: f.n.data}, nil
}

type memoryMapping struct {
	f *memoryFile
	b []byte
}

func (p *memoryMapping) Bytes() []byte        { return p.b }
func (p *memoryMapping) Touch(_, _ int) error { return nil }
func (p *memoryMapping) Unmap() error         { p.b = nil; return nil }

func (p *memoryMapping) Sync(from, to int) error {
	if err := p.f.m.fault(OpSyncMap, p.f.name); err != nil {
		return err
	}
	p.f.m.mu.Lock()
	defer p.f.m.mu.Unlock()
	if p.f.m.Lies {
		return nil
	}
	n := p.f.n
	from = max(from, 0) &^ (PageSize - 1)
	to = min((to+PageSize-1)&^(PageSize-1), len(n.data))
	if len(n.synced) < len(n.data) {
		n.synced = append(n.synced, make([]byte, len(n.data)-len(n.synced))...)
	}
	if from < to {
		copy(n.synced[from:to], n.data[from:to])
	}
	return nil
}
