package journal

import (
	"strings"

	"spillway.dev/redirector/journal/disk"
)

// damage hurts a file as a bad disk or a careless hand does.
func (w *walk) damage() {
	names, _ := w.files.List()
	if len(names) == 0 {
		return
	}
	name := names[w.r.IntN(len(names))]
	if strings.HasSuffix(name, stateSuffix) && w.r.IntN(4) > 0 {
		return
	}
	b := w.files.Content(name)
	kind := w.r.IntN(5)
	switch {
	case len(b) == 0:
		return
	case kind == 0:
		for range 1 + w.r.IntN(8) {
			b[w.r.IntN(len(b))] ^= 1 << w.r.IntN(8)
		}
	case kind == 1:
		at := w.r.IntN(len(b)) &^ (disk.PageSize - 1)
		clear(b[at:min(at+disk.PageSize, len(b))])
	case kind == 2:
		w.files.Shorten(name, w.r.IntN(len(b)))
	case kind == 3:
		for i := range 2 * disk.PageSize { // both headers
			if i < len(b) {
				b[i] = byte(w.r.Uint32())
			}
		}
	default:
		_ = w.files.Remove(name)
	}
	for _, t := range w.streams {
		t.damaged = true
	}
	w.trace("damaged %s (%d)", name, kind)
}

// restart is the end of a process and the start of the next.
func (w *walk) restart() {
	kind := w.r.IntN(4)
	power := kind == 2 || w.crash != nil && w.crash.power
	switch {
	case w.crash != nil && w.crash.files != nil:
		w.trace("crashed in the middle, power %v", power)
		w.files = w.crash.files
	case kind == 0:
		w.crash = nil
		power = false
		err := w.j.Close()
		w.trace("closed (%v)", err)
		w.files.Fault = nil
		w.files = w.files.Kill()
		if err == nil {
			for _, s := range w.j.Streams() {
				if t := w.streams[s.ID()]; !t.torn {
					t.kept = t.last
				}
			}
		}
	case kind == 2:
		w.trace("power cut")
		w.crash = nil
		w.files.Fault = nil
		w.files = w.files.Cut(w.r)
	default:
		w.crash = nil
		power = false
		w.trace("killed")
		w.files.Fault = nil
		w.files = w.files.Kill()
		if s := w.j.Live(); s.active != nil && w.r.IntN(3) == 0 {
			w.killInAppend(s)
		}
	}
	w.crash = nil
	for _, t := range w.streams {
		t.torn = t.torn || power && t.kept < t.last
	}
	if w.r.IntN(8) == 0 {
		for range 1 + w.r.IntN(3) {
			w.damage()
		}
	}
	w.open()
}

// killInAppend leaves half a record behind the last one, as a kill between the copying and the commit word does: over zeros, or over the
// bytes of the file's older use.
func (w *walk) killInAppend(s *Stream) {
	g := s.active
	b := w.files.Content(g.name)
	for i := g.tail + 4; i < min(g.tail+4+w.r.IntN(200), len(b)); i++ {
		b[i] = byte(w.r.Uint32())
	}
	if g.tail+recordHeader < len(b) { // the header's fields may be there already
		b[g.tail+8], b[g.tail+16] = byte(g.number), byte(s.last.Load()+1)
	}
}
