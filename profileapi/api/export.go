package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/export"
)

// takeTime is how long a client of an export may take for the next 64 KiB before it is given up: it holds a place.
const takeTime = 30 * time.Second

type exportInput struct {
	Profile string    `query:"profile" pattern:"^[0-9]{1,18}$" doc:"A profile's id. Absent: all profiles, which needs the operator's token of scope admin."`
	Format  string    `query:"format" enum:"arrow,parquet,csv,ndjson" doc:"Absent: what Accept says; NDJSON if it says nothing."`
	Since   time.Time `query:"since" doc:"Only events from this time on (RFC 3339)."`
	Until   time.Time `query:"until" doc:"Only events before this time (RFC 3339)."`
	Kind    []string  `query:"kind" enum:"view,click" doc:"Only events of these kinds."`
	Class   []string  `query:"class" enum:"unknown,person,bot,preview,prefetch,head,scanner,owner,test" doc:"Only events of these classes. Default: all; the numbers that creators see are of class person."`
	Accept  string    `header:"Accept" doc:"A media type of the answer; format goes first."`
	Coding  string    `header:"Accept-Encoding" doc:"gzip and zstd are known, for CSV and NDJSON. Arrow and Parquet are compressed inside."`
}

// format is what the client wants, or false if it wants what there is not.
func (in *exportInput) format() (export.Format, bool) {
	if in.Format != "" {
		return export.Format(in.Format), true
	}
	if strings.TrimSpace(in.Accept) == "" {
		return export.Formats()[0], true
	}
	best, chosen := 0.0, export.Format("")
	for part := range strings.SplitSeq(in.Accept, ",") {
		want, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			quality = q
		}
		if quality <= best {
			continue
		}
		for _, f := range export.Formats() {
			have, _, _ := mime.ParseMediaType(f.MediaType())
			group, _, _ := strings.Cut(have, "/")
			if want == have || want == "*/*" || want == group+"/*" {
				best, chosen = quality, f
				break
			}
		}
	}
	return chosen, chosen != ""
}

// coding is the compression on the way: zstd, gzip or none.
func (in *exportInput) coding(f export.Format) string {
	if !f.IsText() {
		return ""
	}
	for _, known := range []string{"zstd", "gzip"} {
		for offered := range strings.SplitSeq(in.Coding, ",") {
			name, weight, _ := strings.Cut(strings.TrimSpace(offered), ";")
			if strings.EqualFold(strings.TrimSpace(name), known) && !strings.HasPrefix(strings.ReplaceAll(weight, " ", "")+"0", "q=00") {
				return known
			}
		}
	}
	return ""
}

// exported finds what a client may have of what it asks for, and how the answer is called.
func (a *API) exported(ctx context.Context, in *exportInput) (q export.Query, name string, err error) {
	identity := who(ctx)
	operator := identity.Operator && identity.May(account.Admin)
	switch {
	case in.Profile == "" && !operator:
		return q, "", huma.Error403Forbidden("only the operator's token of scope admin may export everything: name one of your profiles with ?profile=ID")
	case in.Profile == "":
		name = "all"
	case operator:
		// Also of profiles that were deleted, which have events but no row any more.
		if q.Profile, err = number(in.Profile); err != nil {
			return q, "", err
		}
		name = in.Profile
	default:
		p, err := a.seen(ctx, in.Profile)
		if err != nil {
			return q, "", err
		}
		q.Profile, name = p.ID, p.Handle
	}
	for _, limit := range []struct {
		field string
		at    time.Time
	}{{"since", in.Since}, {"until", in.Until}} {
		if !limit.at.IsZero() && !within(limit.at) {
			return q, "", huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "query." + limit.field, Value: limit.at, Message: "use a year from 2000 to 2099"})
		}
	}
	if !in.Since.IsZero() && !in.Until.IsZero() && !in.Since.Before(in.Until) {
		return q, "", huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "query.until", Value: in.Until, Message: "must be after since"})
	}
	format, ok := in.format()
	if !ok {
		return q, "", huma.Error406NotAcceptable("Accept names none of the formats: " + strings.Join(mediaTypes(), ", "))
	}
	q.Format, q.Since, q.Until, q.Kinds, q.Classes = format, in.Since, in.Until, in.Kind, in.Class
	for _, at := range []time.Time{in.Since, in.Until} {
		if !at.IsZero() {
			name += "-" + at.UTC().Format("20060102T150405Z")
		}
	}
	return q, "spillway-events-" + name + "." + format.Suffix(), nil
}

func mediaTypes() (all []string) {
	for _, f := range export.Formats() {
		all = append(all, f.MediaType())
	}
	return all
}

func (a *API) registerExport() {
	content := map[string]*huma.MediaType{}
	for _, f := range export.Formats() {
		content[f.MediaType()] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	text := &huma.Schema{Type: huma.TypeString}
	register(a, huma.Operation{
		OperationID: "export-events", Method: http.MethodGet, Path: "/v1/export",
		Summary: "Stream single events as Arrow, Parquet, CSV or NDJSON",
		Description: "Every event of a profile, or of all, of every class, with the columns of the data dictionary (docs/data-dictionary.md), as many as there are. " +
			"One profile's come in the order of their time, those of all in no promised order; (stream, partition, sequence) names each. " +
			"The answer is what was stored at one moment, at its beginning. Every event answered before Spillway-Complete-Through is in it: with until at or before that time, asking again gives the " +
			"same events (as long as they are kept). Later ones may be there or not: ask for them with since when they are complete. " +
			"A transfer that breaks off is not whole, whatever its length: the connection is cut or, in HTTP/2, the stream reset. " +
			"CSV has values as they were recorded, by visitors too: import its columns as text where a spreadsheet would compute them.",
		Tags: []string{"insights"}, Security: needs(account.Read), Errors: []int{http.StatusNotFound, http.StatusNotAcceptable},
		RejectUnknownQueryParameters: true, // a limit with a slip of the pen would give everything
		Responses: map[string]*huma.Response{"200": {Description: "The events", Content: content, Headers: map[string]*huma.Param{
			"Spillway-Complete-Through": {Description: "Every event that was answered before this time is in the answer (RFC 3339). Absent: not known.", Schema: text},
			"Content-Disposition":       {Description: "A name for the file.", Schema: text},
			"Content-Encoding":          {Description: "zstd or gzip, if the request allowed it.", Schema: text},
		}}},
	}, func(ctx context.Context, in *exportInput) (*huma.StreamResponse, error) {
		q, name, err := a.exported(ctx, in)
		if err != nil {
			return nil, err
		}
		if a.exports == nil {
			return nil, huma.Error503ServiceUnavailable("exports are not set up here")
		}
		// Asked before the events are: it must not promise what was stored after them.
		var through *time.Time
		if err := a.pool.QueryRow(ctx, `SELECT max(complete_through) FROM completeness`).Scan(&through); err != nil {
			return nil, fmt.Errorf("read complete_through: %w", err)
		}
		client, coding := who(ctx).Key(), in.coding(q.Format)
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			// The request's own context: an export lasts as long as its client takes.
			r, w := humago.Unwrap(ctx)
			if r.Method == http.MethodHead {
				w.Header().Set("Content-Type", q.Format.MediaType())
				ctx.SetStatus(http.StatusOK)
				return
			}
			control := http.NewResponseController(w)
			events, err := a.exports.Open(r.Context(), client, q)
			if err != nil {
				// ClickHouse may have looked for a while: the server's own limit is over.
				_ = control.SetWriteDeadline(time.Now().Add(takeTime))
				a.refuseExport(ctx, err)
				return
			}
			defer events.Close()
			header := w.Header()
			header.Set("Content-Type", q.Format.MediaType())
			header.Set("Content-Disposition", `attachment; filename="`+name+`"`)
			header.Set("Cache-Control", "private, no-store")
			header.Set("Vary", "Accept, Accept-Encoding, Authorization, Cookie")
			header.Set("X-Accel-Buffering", "no")
			if through != nil {
				header.Set("Spillway-Complete-Through", through.UTC().Format(time.RFC3339Nano))
			}
			if coding != "" {
				header.Set("Content-Encoding", coding)
			}
			ctx.SetStatus(http.StatusOK)
			if err := copyExport(events, patient{w, control}, coding); err != nil {
				if errors.Is(err, export.ErrBroken) && r.Context().Err() == nil {
					a.log.Warn("an export broke off", "profile", q.Profile, "format", q.Format, "error", err)
				}
				panic(http.ErrAbortHandler) // so that the client does not take what it has for all
			}
		}}, nil
	})
}

// refuseExport answers with the problem that kept an export from beginning.
func (a *API) refuseExport(ctx huma.Context, err error) {
	again := func(seconds string) { ctx.SetHeader("Retry-After", seconds) }
	var status int
	var detail string
	switch {
	case errors.Is(err, export.ErrBusy):
		again("30")
		status, detail = http.StatusTooManyRequests, "too many exports are running; Retry-After says when to try again"
	case errors.Is(err, context.Canceled):
		status, detail = 499, "the client went away"
	case errors.Is(err, export.ErrAway):
		again("10")
		a.log.Warn("an export could not begin", "error", err)
		status, detail = http.StatusServiceUnavailable, "the events cannot be read now; try again in a moment"
	default:
		a.log.Error("an export could not begin", "error", err)
		status, detail = http.StatusInternalServerError, "the server failed to answer; it is logged"
	}
	_ = huma.WriteErr(a.huma, ctx, status, detail)
}

// patient is a client that may take its time, but not for ever.
type patient struct {
	w       io.Writer
	control *http.ResponseController
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(takeTime)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// copyExport writes all of an export. What it compressed is ended only if all of it was there.
func copyExport(events *export.Stream, to io.Writer, coding string) error {
	switch coding {
	case "zstd":
		// RFC 9659: what browsers take has a window of at most 8 MiB.
		z, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return fmt.Errorf("compress an export: %w", err)
		}
		if err := events.Copy(z); err != nil {
			return err
		}
		return z.Close()
	case "gzip":
		z, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
		if err != nil {
			return fmt.Errorf("compress an export: %w", err)
		}
		if err := events.Copy(z); err != nil {
			return err
		}
		return z.Close()
	}
	return events.Copy(to)
}
