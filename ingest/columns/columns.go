// Package columns turns batches of events into a block of columns, in the form in which ClickHouse takes them in: each encoded
// event is read once, straight from the bytes that Kafka delivered, and appended to the columns. There is no object a row, no
// reflection, and in the steady state no allocation an event.
package columns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"slices"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"

	"spillway.dev/ingest/enrich"
	"spillway.dev/ingest/presence"
	"spillway.dev/schemas/event"
	"spillway.dev/schemas/rules"
)

// Longest texts that are stored, in bytes. The redirector cuts at the same or earlier; whoever else writes events need not.
const (
	maxAgent    = 512
	maxReferrer = 512
	maxQuery    = 512
	maxHost     = 253
	maxShort    = 64
	maxCampaign = 256
)

// Block is a batch of rows for the table events. It is not safe for use by several goroutines. Rows of one partition only may be in
// a block at a time.
type Block struct {
	cache *enrich.Cache

	partition uint32 // of every row
	term      uint64 // of every row
	rows      int

	streams, sequences, offsets proto.ColUInt64
	times                       proto.ColInt64
	dates                       proto.ColUInt16
	kinds, classes, surfaces    proto.ColInt8
	rulesVersions, layouts      proto.ColUInt32
	suspects                    proto.ColUInt8
	profiles, links, visitors   proto.ColUInt64

	reason, place, variant, host      word
	country, language, channel        word
	userAgent, referrer               word
	utmSource, utmMedium, utmCampaign word
	utmTerm, utmContent               word
	device, browser, os, referrerHost derived
	words                             []*word
	deriveds                          []*derived
	input                             []proto.InputColumn

	agents   []*enrich.Agent // id of a user agent → what it says
	sites    []site          // id of a referrer → what is known of it
	campaign enrich.Campaign
	looked   uint64 // look-ups of user agents since the last call of Lookups
	scratch  []byte
	buffer   proto.Buffer
}

// site is what is known of a referrer.
type site struct {
	host    []byte // as of enrich.Host
	stored  string // what of host is stored
	channel string // of an event without a query, for the host asked of the id asked-1
	asked   uint32
}

// New returns an empty block that enriches through the cache, which must be its own.
func New(cache *enrich.Cache) *Block {
	b := &Block{cache: cache}
	seed := maphash.MakeSeed()
	column := func(name string, at *word) proto.InputColumn {
		bound := knownBytes
		if at == &b.userAgent {
			bound = knownAgentBytes
		}
		*at = word{dictionary: newDictionary(seed, bound), rows: &b.rows}
		b.words = append(b.words, at)
		return proto.InputColumn{Name: name, Data: at}
	}
	from := func(name string, at *derived, of *word, means func(id uint32) string) proto.InputColumn {
		*at = derived{dictionary: newDictionary(seed, knownBytes), of: of, means: means}
		b.deriveds = append(b.deriveds, at)
		return proto.InputColumn{Name: name, Data: at}
	}
	of := func(name string, kind proto.ColumnType, data proto.Column) proto.InputColumn {
		return proto.InputColumn{Name: name, Data: proto.Alias(data, kind)} // the bytes are the same
	}
	b.input = []proto.InputColumn{
		{Name: "stream", Data: &b.streams},
		{Name: "partition", Data: same[uint32]{&b.partition, &b.rows, proto.ColumnTypeUInt32}},
		{Name: "sequence", Data: &b.sequences},
		{Name: "offset", Data: &b.offsets},
		{Name: "term", Data: same[uint64]{&b.term, &b.rows, proto.ColumnTypeUInt64}},
		of("time", "DateTime64(6, 'UTC')", &b.times),
		of("date", "Date", &b.dates),
		of("kind", "Enum8('unknown' = 0, 'view' = 1, 'click' = 2)", &b.kinds),
		of("class", "Enum8('unknown' = 0, 'person' = 1, 'bot' = 2, 'preview' = 3, 'prefetch' = 4, 'head' = 5, 'scanner' = 6, 'owner' = 7, 'test' = 8)", &b.classes),
		column("reason", &b.reason),
		{Name: "rules_version", Data: &b.rulesVersions},
		of("suspect", "Bool", &b.suspects),
		{Name: "profile_id", Data: &b.profiles},
		{Name: "link_id", Data: &b.links},
		{Name: "visitor", Data: &b.visitors},
		of("surface", "Enum8('unknown' = 0, 'page' = 1, 'direct' = 2, 'qr' = 3)", &b.surfaces),
		column("place", &b.place),
		column("variant", &b.variant),
		{Name: "layout", Data: &b.layouts},
		column("host", &b.host),
		column("country", &b.country),
		column("language", &b.language),
		from("device", &b.device, &b.userAgent, func(id uint32) string { return b.agents[id].Device }),
		from("browser", &b.browser, &b.userAgent, func(id uint32) string { return b.agents[id].Browser }),
		from("os", &b.os, &b.userAgent, func(id uint32) string { return b.agents[id].System }),
		column("user_agent", &b.userAgent),
		column("referrer", &b.referrer),
		from("referrer_host", &b.referrerHost, &b.referrer, func(id uint32) string { return b.sites[id].stored }),
		column("channel", &b.channel),
		column("utm_source", &b.utmSource),
		column("utm_medium", &b.utmMedium),
		column("utm_campaign", &b.utmCampaign),
		column("utm_term", &b.utmTerm),
		column("utm_content", &b.utmContent),
	}
	return b
}

// Names returns the columns in the order in which Encode writes them.
func (b *Block) Names() []string {
	names := make([]string, len(b.input))
	for i, c := range b.input {
		names[i] = c.Name
	}
	return names
}

// Reset empties the block and keeps its memory. What is appended afterwards is of that partition and written under that term.
func (b *Block) Reset(partition int32, term uint64) {
	b.resize(0)
	for _, w := range b.words {
		forgotten := w.reset()
		switch {
		case !forgotten:
		case w == &b.userAgent:
			b.agents = b.agents[:0]
		case w == &b.referrer:
			b.sites = b.sites[:0]
		case w == &b.host:
			for i := range b.sites {
				b.sites[i].asked = 0
			}
		}
	}
	for _, d := range b.deriveds {
		d.reset()
	}
	if len(b.agents) == 0 {
		b.agents = append(b.agents, b.cache.Agent(nil))
	}
	if len(b.sites) == 0 {
		b.sites = append(b.sites, site{})
	}
	b.partition, b.term = uint32(partition), term
}

// Rows returns how many events are in the block.
func (b *Block) Rows() int { return b.rows }

// ErrNotReadable is wrapped by what Append returns for a batch that does not decode.
var ErrNotReadable = errors.New("batch is not readable")

// Append appends the events of a batch whose sequences are in the given ranges (ascending, within the batch), but those whose
// date lies before oldest (days since 1970-01-01). offset is that of the batch's record in Kafka. It returns how many were
// appended and how many were too old. A batch that does not decode is appended not at all and returns an error that wraps
// ErrNotReadable, also if the damage is in an event that was not asked for.
func (b *Block) Append(batch *event.Batch, offset int64, wanted []presence.Range, oldest uint16) (appended, expired int, err error) {
	start := b.rows
	b.resize(start + batch.Count)
	row := start
	var f fields
	for sequence, encoded := range batch.Events {
		if err := f.read(encoded); err != nil {
			b.resize(start)
			return 0, 0, fmt.Errorf("%w: sequence %d: %w", ErrNotReadable, sequence, err)
		}
		at, date := int64(f.of[fieldTime]), f.of[fieldDate]
		if date == 0 && at >= 0 {
			date = uint64(at / (24 * 60 * 60 * 1e6))
		}
		if date > math.MaxUint16 || at < 0 || at > maxTime {
			b.resize(start)
			return 0, 0, fmt.Errorf("%w: sequence %d: time %d µs or date %d is out of range", ErrNotReadable, sequence, at, date)
		}
		for len(wanted) > 0 && wanted[0].Last < sequence {
			wanted = wanted[1:]
		}
		if len(wanted) == 0 || sequence < wanted[0].First {
			continue
		}
		if uint16(date) < oldest {
			expired++
			continue
		}
		b.sequences[row], b.times[row], b.dates[row] = sequence, at, uint16(date)
		b.set(row, &f)
		row++
	}
	for i := start; i < row; i++ {
		b.streams[i], b.offsets[i] = batch.Stream, uint64(offset)
	}
	b.resize(row)
	return row - start, expired, nil
}

// maxTime is the last microsecond that DateTime64(6) of ClickHouse holds: the end of the year 2299.
const maxTime = 10413791999999999

// set writes a row that there is room for, but for the columns that Append writes.
func (b *Block) set(row int, f *fields) {
	b.scratch = b.scratch[:0]
	b.kinds[row] = known(f.of[fieldKind], uint64(event.Kind_KIND_CLICK))
	b.profiles[row] = f.of[fieldProfile]
	b.links[row] = f.of[fieldLink]
	b.visitors[row] = f.of[fieldVisitor]
	b.surfaces[row] = known(f.of[fieldSurface], uint64(event.Surface_SURFACE_QR))
	b.layouts[row] = uint32(f.of[fieldLayout])
	b.suspects[row] = uint8(min(f.of[fieldSuspect], 1))

	b.place.setText(row, f.text(fieldPlace), maxShort, &b.scratch)
	b.variant.setText(row, f.text(fieldVariant), maxShort, &b.scratch)
	b.country.setText(row, f.text(fieldCountry), 2, &b.scratch)
	b.language.setText(row, f.text(fieldLanguage), 16, &b.scratch)
	agent := b.setAgent(row, f.text(fieldUserAgent))
	b.setOrigin(row, f, agent)

	// The redirector saw the request; only who it took for a person, or did not judge, is judged by the user agent. What a rule of
	// the operator's decided is decided, also when it says person.
	class, reason, version := f.of[fieldClass], f.text(fieldReason), uint32(f.of[fieldRules])
	if class <= uint64(event.Class_CLASS_PERSON) && !rules.Is(reason) {
		b.classes[row] = int8(agent.Class)
		b.reason.set(row, bytesOf(agent.Reason))
		b.rulesVersions[row] = rules.Rebase(version, enrich.Version)
	} else {
		b.classes[row] = known(class, uint64(event.Class_CLASS_TEST))
		b.reason.setText(row, reason, maxShort, &b.scratch)
		b.rulesVersions[row] = version
	}
}

// setAgent writes a row's user agent and returns what it says.
func (b *Block) setAgent(row int, text []byte) *enrich.Agent {
	b.looked++
	id := uint32(0)
	if len(text) > 0 {
		id = b.userAgent.textID(text, maxAgent, &b.scratch)
		if int(id) == len(b.agents) {
			b.agents = append(b.agents, b.cache.Agent(bytesOf(b.userAgent.value[id])))
		}
		b.userAgent.put(row, b.userAgent.dictionary.place(id))
	}
	return b.agents[id]
}

// setOrigin writes where a row's visit came from.
func (b *Block) setOrigin(row int, f *fields, agent *enrich.Agent) {
	host := uint32(0)
	if text := f.text(fieldHost); len(text) > 0 {
		host = b.host.textID(text, maxHost, &b.scratch)
		b.host.put(row, b.host.dictionary.place(host))
	}
	id := uint32(0)
	if text := f.text(fieldReferrer); len(text) > 0 {
		id = b.referrer.textID(text, maxReferrer, &b.scratch)
		if int(id) == len(b.sites) {
			from := bytes.Clone(enrich.Host(bytesOf(b.referrer.value[id]), nil))
			b.sites = append(b.sites, site{host: from, stored: string(from[:min(len(from), maxHost)])})
		}
		b.referrer.put(row, b.referrer.dictionary.place(id))
	}
	from := &b.sites[id]
	query := f.text(fieldQuery)
	if len(query) == 0 && len(from.host) > 0 {
		if from.asked != host+1 {
			b.campaign.Read(nil)
			from.channel, from.asked = enrich.Channel(from.host, bytesOf(b.host.value[host]), agent, &b.campaign), host+1
		}
		b.channel.set(row, bytesOf(from.channel))
		return
	}
	b.campaign.Read(query[:min(len(query), maxQuery)])
	b.channel.set(row, bytesOf(enrich.Channel(from.host, bytesOf(b.host.value[host]), agent, &b.campaign)))
	if len(query) > 0 {
		b.utmSource.setText(row, b.campaign.Source, maxCampaign, &b.scratch)
		b.utmMedium.setText(row, b.campaign.Medium, maxCampaign, &b.scratch)
		b.utmCampaign.setText(row, b.campaign.Name, maxCampaign, &b.scratch)
		b.utmTerm.setText(row, b.campaign.Term, maxCampaign, &b.scratch)
		b.utmContent.setText(row, b.campaign.Content, maxCampaign, &b.scratch)
	}
}

// known maps an enum's value that this version does not know to its zero, "unknown".
func known(value, highest uint64) int8 {
	if value > highest {
		return 0
	}
	return int8(value)
}

// resize makes the block so many rows long. Rows beyond those that there were hold anything in the columns of numbers, and nothing in
// those of words.
func (b *Block) resize(rows int) {
	b.rows = rows
	b.streams, b.sequences, b.offsets = resized(b.streams, rows), resized(b.sequences, rows), resized(b.offsets, rows)
	b.times, b.dates = resized(b.times, rows), resized(b.dates, rows)
	b.kinds, b.classes, b.surfaces = resized(b.kinds, rows), resized(b.classes, rows), resized(b.surfaces, rows)
	b.rulesVersions, b.layouts, b.suspects = resized(b.rulesVersions, rows), resized(b.layouts, rows), resized(b.suspects, rows)
	b.profiles, b.links, b.visitors = resized(b.profiles, rows), resized(b.links, rows), resized(b.visitors, rows)
	for _, w := range b.words {
		w.truncate(rows)
	}
}

// resized doubles a column's room when there is too little: memory that is new costs more to touch than what is written there.
func resized[S ~[]E, E any](column S, rows int) S {
	if rows > cap(column) {
		larger := make(S, rows, max(rows, 2*cap(column), 4096))
		copy(larger, column)
		return larger
	}
	return column[:rows]
}

// same is a column whose rows all have one value.
type same[T uint32 | uint64] struct {
	value *T
	rows  *int
	kind  proto.ColumnType
}

func (s same[T]) Type() proto.ColumnType       { return s.kind }
func (s same[T]) Rows() int                    { return *s.rows }
func (s same[T]) WriteColumn(to *proto.Writer) { to.ChainBuffer(s.EncodeColumn) }
func (s same[T]) EncodeColumn(b *proto.Buffer) {
	one := binary.LittleEndian.AppendUint64(nil, uint64(*s.value))[:unsafe.Sizeof(*s.value)]
	to, _ := room(b, len(one)**s.rows, 0)
	for n := copy(to, one); n < len(to); n *= 2 {
		copy(to[n:], to[:n])
	}
}

// numberBytes is what a row takes in the columns that are no words, when it is encoded.
const numberBytes = 82

// Encode returns the block in ClickHouse's Native format (revision 0, the one that HTTP bodies are in). The bytes are valid until
// the next Encode.
func (b *Block) Encode() ([]byte, error) {
	b.buffer.Reset()
	size := b.rows * numberBytes
	for _, w := range b.words {
		size += w.size(b.rows)
	}
	for _, d := range b.deriveds {
		size += d.of.size(b.rows) // as many keys, and shorter values
	}
	b.buffer.Buf = slices.Grow(b.buffer.Buf, size)
	head := proto.Block{Columns: len(b.input), Rows: b.rows}
	if err := head.EncodeRawBlock(&b.buffer, 0, b.input); err != nil {
		return nil, fmt.Errorf("encode block: %w", err)
	}
	return b.buffer.Buf, nil
}

// LetGo leaves the bytes of the last Encode to whoever still reads them: the next Encode takes other memory.
func (b *Block) LetGo() { b.buffer = proto.Buffer{} }

// Lookups returns, of the block's user agents since the last call, how many were known and how many had to be read.
func (b *Block) Lookups() (hits, misses uint64) {
	_, misses = b.cache.Lookups()
	hits, b.looked = b.looked-min(misses, b.looked), 0
	return hits, misses
}

// Times returns when each event of the block was answered, in microseconds since 1970. It is valid until the block changes.
func (b *Block) Times() []int64 { return b.times }

// Touched yields the profiles and dates of the block's events. It leaves out most of those that it has yielded already.
func (b *Block) Touched() iter.Seq2[uint64, uint16] {
	return func(yield func(uint64, uint16) bool) {
		type touched struct {
			profile uint64
			date    uint16
			there   bool
		}
		var lately [1 << 10]touched
		for i, p := range b.profiles {
			t := touched{p, b.dates[i], true}
			at := &lately[(p^uint64(t.date)*31)%uint64(len(lately))]
			if *at == t {
				continue
			}
			*at = t
			if !yield(t.profile, t.date) {
				return
			}
		}
	}
}
