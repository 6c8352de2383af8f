// Package columns turns batches of events into a block of columns, in the form in which ClickHouse takes them in: each encoded
// event is read once, straight from the bytes that Kafka delivered, and appended to the columns. There is no object a row, no
// reflection, and in the steady state no allocation an event.
package columns

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

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

	partition, term uint64 // of every row
	rows            int

	streams, sequences, offsets, terms proto.ColUInt64
	partitions                         proto.ColUInt32
	times                              proto.ColInt64
	dates                              proto.ColUInt16
	kinds, classes, surfaces           proto.ColInt8
	rulesVersions, layouts             proto.ColUInt32
	suspects                           proto.ColUInt8
	profiles, links, visitors          proto.ColUInt64

	reason, place, variant, host           *dictionary
	country, language, device, browser, os *dictionary
	userAgent, referrer                    *dictionary
	referrerHost, channel                  *dictionary
	utmSource, utmMedium, utmCampaign      *dictionary
	utmTerm, utmContent                    *dictionary
	dictionaries                           []*dictionary
	input                                  []proto.InputColumn
	campaign                               enrich.Campaign
	scratch, hostScratch                   []byte
	buffer                                 proto.Buffer
}

// New returns an empty block that enriches through the cache, which must be its own.
func New(cache *enrich.Cache) *Block {
	b := &Block{cache: cache, hostScratch: make([]byte, 0, maxReferrer)}
	word := func(name string, at **dictionary) proto.InputColumn {
		*at = newDictionary()
		b.dictionaries = append(b.dictionaries, *at)
		return proto.InputColumn{Name: name, Data: *at}
	}
	of := func(name string, kind proto.ColumnType, data proto.Column) proto.InputColumn {
		return proto.InputColumn{Name: name, Data: proto.Alias(data, kind)} // the bytes are the same
	}
	b.input = []proto.InputColumn{
		{Name: "stream", Data: &b.streams},
		{Name: "partition", Data: &b.partitions},
		{Name: "sequence", Data: &b.sequences},
		{Name: "offset", Data: &b.offsets},
		{Name: "term", Data: &b.terms},
		of("time", "DateTime64(6, 'UTC')", &b.times),
		of("date", "Date", &b.dates),
		of("kind", "Enum8('unknown' = 0, 'view' = 1, 'click' = 2)", &b.kinds),
		of("class", "Enum8('unknown' = 0, 'person' = 1, 'bot' = 2, 'preview' = 3, 'prefetch' = 4, 'head' = 5, 'scanner' = 6, 'owner' = 7, 'test' = 8)", &b.classes),
		word("reason", &b.reason),
		{Name: "rules_version", Data: &b.rulesVersions},
		of("suspect", "Bool", &b.suspects),
		{Name: "profile_id", Data: &b.profiles},
		{Name: "link_id", Data: &b.links},
		{Name: "visitor", Data: &b.visitors},
		of("surface", "Enum8('unknown' = 0, 'page' = 1, 'direct' = 2, 'qr' = 3)", &b.surfaces),
		word("place", &b.place),
		word("variant", &b.variant),
		{Name: "layout", Data: &b.layouts},
		word("host", &b.host),
		word("country", &b.country),
		word("language", &b.language),
		word("device", &b.device),
		word("browser", &b.browser),
		word("os", &b.os),
		word("user_agent", &b.userAgent),
		word("referrer", &b.referrer),
		word("referrer_host", &b.referrerHost),
		word("channel", &b.channel),
		word("utm_source", &b.utmSource),
		word("utm_medium", &b.utmMedium),
		word("utm_campaign", &b.utmCampaign),
		word("utm_term", &b.utmTerm),
		word("utm_content", &b.utmContent),
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
	b.truncate(0)
	for _, d := range b.dictionaries {
		d.Reset()
	}
	b.partition, b.term = uint64(partition), term
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
	var f fields
	for sequence, encoded := range batch.Events {
		if err := f.read(encoded); err != nil {
			b.truncate(start)
			return 0, 0, fmt.Errorf("%w: sequence %d: %w", ErrNotReadable, sequence, err)
		}
		if f.date == 0 && f.time >= 0 {
			f.date = uint64(f.time / (24 * 60 * 60 * 1e6))
		}
		if f.date > math.MaxUint16 || f.time < 0 || f.time > maxTime {
			b.truncate(start)
			return 0, 0, fmt.Errorf("%w: sequence %d: time %d µs or date %d is out of range", ErrNotReadable, sequence, f.time, f.date)
		}
		for len(wanted) > 0 && wanted[0].Last < sequence {
			wanted = wanted[1:]
		}
		if len(wanted) == 0 || sequence < wanted[0].First {
			continue
		}
		if uint16(f.date) < oldest {
			expired++
			continue
		}
		b.append(batch.Stream, sequence, uint64(offset), &f)
	}
	return b.rows - start, expired, nil
}

// maxTime is the last microsecond that DateTime64(6) of ClickHouse holds: the end of the year 2299.
const maxTime = 10413791999999999

func (b *Block) append(stream, sequence, offset uint64, f *fields) {
	b.rows++
	b.scratch = b.scratch[:0]
	b.streams = append(b.streams, stream)
	b.partitions = append(b.partitions, uint32(b.partition))
	b.sequences = append(b.sequences, sequence)
	b.offsets = append(b.offsets, offset)
	b.terms = append(b.terms, b.term)
	b.times = append(b.times, f.time)
	b.dates = append(b.dates, uint16(f.date))
	b.kinds = append(b.kinds, known(f.kind, uint64(event.Kind_KIND_CLICK)))
	b.profiles = append(b.profiles, f.profile)
	b.links = append(b.links, f.link)
	b.visitors = append(b.visitors, f.visitor)
	b.surfaces = append(b.surfaces, known(f.surface, uint64(event.Surface_SURFACE_QR)))
	b.layouts = append(b.layouts, uint32(f.layout))
	suspect := uint8(0)
	if f.suspect {
		suspect = 1
	}
	b.suspects = append(b.suspects, suspect)

	host := safe(f.host, maxHost, &b.scratch)
	referrer := safe(f.referrer, maxReferrer, &b.scratch)
	userAgent := safe(f.userAgent, maxAgent, &b.scratch)
	agent := b.cache.Agent(userAgent)
	b.campaign.Read(f.query[:min(len(f.query), maxQuery)])
	referrerHost := enrich.Host(referrer, b.hostScratch)
	b.place.append(safe(f.place, maxShort, &b.scratch))
	b.variant.append(safe(f.variant, maxShort, &b.scratch))
	b.host.append(host)
	b.country.append(safe(f.country, 2, &b.scratch))
	b.language.append(safe(f.language, 16, &b.scratch))
	b.device.appendString(agent.Device)
	b.browser.appendString(agent.Browser)
	b.os.appendString(agent.System)
	b.userAgent.append(userAgent)
	b.referrer.append(referrer)
	b.referrerHost.append(referrerHost[:min(len(referrerHost), maxHost)])
	b.channel.appendString(enrich.Channel(referrerHost, host, agent, &b.campaign))
	b.utmSource.append(safe(b.campaign.Source, maxCampaign, &b.scratch))
	b.utmMedium.append(safe(b.campaign.Medium, maxCampaign, &b.scratch))
	b.utmCampaign.append(safe(b.campaign.Name, maxCampaign, &b.scratch))
	b.utmTerm.append(safe(b.campaign.Term, maxCampaign, &b.scratch))
	b.utmContent.append(safe(b.campaign.Content, maxCampaign, &b.scratch))

	// The redirector saw the request; only who it took for a person, or did not judge, is judged by the user agent. What a rule of
	// the operator's decided is decided, also when it says person.
	if f.class <= uint64(event.Class_CLASS_PERSON) && !rules.Is(f.reasonFor) {
		b.classes = append(b.classes, int8(agent.Class))
		b.reason.appendString(agent.Reason)
		b.rulesVersions = append(b.rulesVersions, rules.Rebase(uint32(f.rules), enrich.Version))
	} else {
		b.classes = append(b.classes, known(f.class, uint64(event.Class_CLASS_TEST)))
		b.reason.append(safe(f.reasonFor, maxShort, &b.scratch))
		b.rulesVersions = append(b.rulesVersions, uint32(f.rules))
	}
}

// known maps an enum's value that this version does not know to its zero, "unknown".
func known(value, highest uint64) int8 {
	if value > highest {
		return 0
	}
	return int8(value)
}

func (b *Block) truncate(rows int) {
	b.rows = rows
	b.streams, b.sequences, b.offsets, b.terms = b.streams[:rows], b.sequences[:rows], b.offsets[:rows], b.terms[:rows]
	b.partitions, b.times, b.dates = b.partitions[:rows], b.times[:rows], b.dates[:rows]
	b.kinds, b.classes, b.surfaces = b.kinds[:rows], b.classes[:rows], b.surfaces[:rows]
	b.rulesVersions, b.layouts, b.suspects = b.rulesVersions[:rows], b.layouts[:rows], b.suspects[:rows]
	b.profiles, b.links, b.visitors = b.profiles[:rows], b.links[:rows], b.visitors[:rows]
	for _, d := range b.dictionaries {
		d.truncate(rows)
	}
}

// Encode returns the block in ClickHouse's Native format (revision 0, the one that HTTP bodies are in). The bytes are valid until
// the next Encode.
func (b *Block) Encode() ([]byte, error) {
	b.buffer.Reset()
	head := proto.Block{Columns: len(b.input), Rows: b.rows}
	if err := head.EncodeRawBlock(&b.buffer, 0, b.input); err != nil {
		return nil, fmt.Errorf("encode block: %w", err)
	}
	return b.buffer.Buf, nil
}

// Lookups returns the hits and misses of the block's cache since the last call.
func (b *Block) Lookups() (hits, misses uint64) { return b.cache.Lookups() }

// Times yields when each event of the block was answered.
func (b *Block) Times() iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		for _, t := range b.times {
			if !yield(time.UnixMicro(t)) {
				return
			}
		}
	}
}

// Touched yields the profile and the date of each event of the block, without repeating neighbours that are the same.
func (b *Block) Touched() iter.Seq2[uint64, uint16] {
	return func(yield func(uint64, uint16) bool) {
		for i, p := range b.profiles {
			if i > 0 && p == b.profiles[i-1] && b.dates[i] == b.dates[i-1] {
				continue
			}
			if !yield(p, b.dates[i]) {
				return
			}
		}
	}
}
