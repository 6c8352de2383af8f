package directory

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"time"

	"spillway.dev/redirector/aside"
	"spillway.dev/redirector/page"
)

// A snapshot is one file:
//
//	magic    8 bytes   "SPILLDIR"
//	version  4 bytes   little endian; a reader takes its own version only
//	length   8 bytes   of the body
//	crc      4 bytes   CRC-32C of the body
//	body               records, one after another: a byte that says what it is (a kind, or 'd' for an own domain), then its
//	                   fields in the order of the code below; numbers as varints, texts as their length and their bytes
//
// It is written to a file beside it, forced to the disk and renamed, so a reader finds an old one or a new one, and by the
// checksum knows a broken one. It is a hint: whatever it says is loaded again as soon as PostgreSQL is there.
const (
	snapshotMagic   = "SPILLDIR"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 4 + 8 + 4
	domainRecord    = 'd'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// save writes the snapshot if something changed since the last one.
func (d *Directory) save() {
	if d.o.Snapshot == "" || !d.unsaved.Swap(false) {
		return
	}
	began := time.Now()
	var names int
	var size int64
	err := aside.Do(func() error {
		return replaceFile(d.o.Snapshot, func(file *os.File) (err error) {
			names, size, err = d.write(file)
			return err
		})
	})
	if err != nil {
		d.unsaved.Store(true)
		d.log.Warn("the snapshot of profiles and links could not be written", "error", err)
		return
	}
	d.metrics.snapshotBytes.Set(float64(size))
	d.metrics.snapshotTime.SetToCurrentTime()
	d.log.Debug("wrote the snapshot of profiles and links", "names", names, "bytes", size, "took", time.Since(began).Round(time.Millisecond))
}

// body writes a snapshot's body, as much of it as is within the bound.
type body struct {
	out    *bufio.Writer
	crc    uint32
	size   int64 // with the header
	most   int64
	record []byte // the next one
}

// add writes the next record and tells whether it had room.
func (b *body) add() (added bool, err error) {
	n := int64(len(b.record))
	if n == 0 || b.size+n > b.most {
		return false, nil
	}
	b.size += n
	b.crc = crc32.Update(b.crc, castagnoli, b.record)
	_, err = b.out.Write(b.record)
	return true, err
}

// write writes a snapshot within its bound: what visitors used since the last one before the rest. It goes to the file as it is made: there may be millions of links.
func (d *Directory) write(file io.WriteSeeker) (names int, size int64, err error) {
	b := &body{out: bufio.NewWriterSize(file, 64<<10), size: int64(snapshotHeader), most: d.o.SnapshotBytes}
	if _, err := b.out.Write(make([]byte, snapshotHeader)); err != nil {
		return 0, 0, err
	}
	for host := range *d.domains.Load() {
		b.record = appendText(append(b.record[:0], domainRecord), host)
		if _, err := b.add(); err != nil {
			return 0, 0, err
		}
	}
	entries := d.entriesByUse()
	var shelves []*shelf
	var recent []uint64
	d.shelves.each(func(s *shelf) {
		shelves = append(shelves, s)
		recent = append(recent, s.recent.Swap(0))
	})
	for pass := range entries {
		for _, e := range entries[pass] {
			e.used.And(^uint32(usedSnapshot))
			b.record = d.appendValue(b.record[:0], e.value.Load())
			added, err := b.add()
			if err != nil {
				return 0, 0, err
			}
			if added {
				names++
			}
		}
		for i, s := range shelves {
			for some := recent[i]; some != 0; some &= some - 1 {
				b.record = s.at(bits.TrailingZeros64(some)).appendSnapshot(b.record[:0], d.zones)
				added, err := b.add()
				if err != nil {
					return 0, 0, err
				}
				if added {
					names++
				}
			}
			recent[i] ^= s.all() // the rest, next time
		}
	}
	if err := b.out.Flush(); err != nil {
		return 0, 0, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return 0, 0, err
	}
	header := append(make([]byte, 0, snapshotHeader), snapshotMagic...)
	header = binary.LittleEndian.AppendUint32(header, snapshotVersion)
	header = binary.LittleEndian.AppendUint64(header, uint64(b.size)-uint64(snapshotHeader))
	_, err = file.Write(binary.LittleEndian.AppendUint32(header, b.crc))
	return names, b.size, err
}

// entriesByUse returns the entries that were used since the last snapshot, and the rest.
func (d *Directory) entriesByUse() (entries [2][]*entry) {
	seen := map[*entry]struct{}{}
	d.mu.RLock()
	defer d.mu.RUnlock()
	d.eachEntryLocked(func(e *entry) {
		if _, twice := seen[e]; twice {
			return
		}
		seen[e] = struct{}{}
		if e.used.Load()&usedSnapshot != 0 {
			entries[0] = append(entries[0], e)
		} else {
			entries[1] = append(entries[1], e)
		}
	})
	return entries
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (d *Directory) appendValue(b []byte, v *value) []byte {
	switch {
	case v == nil: // what does not exist any more is not worth keeping
	case v.link != nil:
		b = v.link.appendSnapshot(b, d.zones)
	case v.profile == nil:
	default:
		r := v.profile.row
		b = append(b, byte(kindProfile))
		b = binary.AppendUvarint(b, r.id)
		b = binary.AppendUvarint(b, uint64(r.shown.Layout))
		for _, s := range [...]string{r.zone, r.shown.Handle, r.shown.Title, r.shown.Bio, r.shown.Theme} {
			b = appendText(b, s)
		}
		b = binary.AppendUvarint(b, uint64(len(r.shown.Links)))
		for _, l := range r.shown.Links {
			b = appendText(appendText(appendText(b, l.Host), l.Code), l.Title)
		}
	}
	return b
}

// replaceFile puts what write writes in place of the file at path, wholly or not at all.
func replaceFile(path string, write func(*os.File) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the snapshot's directory: %w", err)
	}
	temporary := path + ".new" // one process writes it: the journal's lock is taken first
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	err = errors.Join(write(file), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), os.Remove(temporary))
	}
	return nil
}

// restore makes known what the snapshot knew. A snapshot that cannot be read is left out with a line in the log.
func (d *Directory) restore() {
	if d.o.Snapshot == "" {
		return
	}
	began := time.Now()
	body, err := readSnapshot(d.o.Snapshot, d.o.SnapshotBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	names := 0
	if err == nil {
		if names, err = d.decode(body); err != nil {
			d.cache.Clear()
			d.shelves.clear()
		}
	}
	if err != nil {
		d.log.Warn("the snapshot of profiles and links is not used", "file", d.o.Snapshot, "error", err)
		return
	}
	d.cache.Wait()
	d.metrics.restored.Set(float64(names))
	d.log.Info("knows profiles and links from the snapshot", "names", names, "took", time.Since(began).Round(time.Millisecond))
}

func readSnapshot(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("size of the snapshot: %w", err)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(file, b); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return openSnapshot(b)
}

// openSnapshot checks a snapshot and returns its body.
func openSnapshot(b []byte) ([]byte, error) {
	if len(b) < snapshotHeader || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, errors.New("not a snapshot")
	}
	header, body := b[len(snapshotMagic):snapshotHeader], b[snapshotHeader:]
	if version := binary.LittleEndian.Uint32(header); version != snapshotVersion {
		return nil, fmt.Errorf("version %d, not %d", version, snapshotVersion)
	}
	if length := binary.LittleEndian.Uint64(header[4:]); length != uint64(len(body)) {
		return nil, fmt.Errorf("%d bytes, not %d", len(body), length)
	}
	if binary.LittleEndian.Uint32(header[12:]) != crc32.Checksum(body, castagnoli) {
		return nil, errors.New("the checksum does not fit")
	}
	return body, nil
}

// decode makes a body's records known.
func (d *Directory) decode(body []byte) (names int, err error) {
	r := fieldReader{rest: body}
	domains := map[string]string{}
	for len(r.rest) > 0 && !r.broken {
		switch what := r.byte(); what {
		case domainRecord:
			host := r.text()
			domains[host] = host
		case byte(kindLink):
			row := r.link()
			if !r.broken {
				d.remember(key{kindLink, row.host, row.code}, &value{link: d.newRecord(row)})
				names++
			}
		case byte(kindProfile):
			row := r.profile()
			if !r.broken {
				d.remember(key{kindProfile, "", row.shown.Handle}, &value{profile: d.newProfile(row)})
				names++
			}
		default:
			return names, fmt.Errorf("record of unknown kind %d", what)
		}
	}
	if r.broken {
		return names, errors.New("a record is cut short")
	}
	d.domains.Store(&domains)
	return names, nil
}

// remember makes a value known if there is room: what the snapshot has first was used more lately.
func (d *Directory) remember(k key, v *value) {
	if v.link == nil && v.profile == nil {
		return // a name that nobody can ask for
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	hash := d.hashOf(k)
	if _, known := d.valueLocked(k, hash); known {
		return
	}
	if v.fits() {
		d.shelves.add(hash, v.link, false, false)
		return
	}
	e := newEntry(k, v)
	if !d.cache.Set(hash, e, v.cost()) { // Ristretto drops what comes too fast, so it is waited for
		d.cache.Wait()
		d.cache.Set(hash, e, v.cost())
	}
}

// fieldReader reads a record's fields; broken says that there was less than there should be.
type fieldReader struct {
	rest   []byte
	broken bool
}

func (r *fieldReader) byte() byte {
	if len(r.rest) == 0 {
		r.broken = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *fieldReader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.broken, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *fieldReader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.broken, r.rest = true, nil
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *fieldReader) link() linkRow {
	row := linkRow{id: r.number(), profile: r.number()}
	for _, s := range [...]*string{&row.host, &row.code, &row.url, &row.mode, &row.utm[0], &row.utm[1], &row.utm[2], &row.utm[3], &row.utm[4], &row.zone} {
		*s = r.text()
	}
	return row
}

func (r *fieldReader) profile() profileRow {
	row := profileRow{id: r.number()}
	shown := &row.shown
	shown.Layout = uint32(r.number())
	for _, s := range [...]*string{&row.zone, &shown.Handle, &shown.Title, &shown.Bio, &shown.Theme} {
		*s = r.text()
	}
	for n := r.number(); n > 0 && !r.broken; n-- {
		shown.Links = append(shown.Links, page.Link{Host: r.text(), Code: r.text(), Title: r.text()})
	}
	return row
}
