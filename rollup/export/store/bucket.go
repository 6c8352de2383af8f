package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"
)

const (
	// defaultSilence is how long an object store may take for the next bytes of a request or an answer.
	defaultSilence = time.Minute
	// tries is how often a request is sent that got no answer, or one that says that the server failed.
	tries = 8
	// pauses is how many of the longest pauses between tries make the time that a store may be silent.
	pauses = 12
)

// Bucket is a store in an object store. Objects appear whole by nature, and CreateNew is a conditional PUT (If-None-Match: *),
// which Amazon S3, Google's and Azure's stores, MinIO, Ceph and R2 have; CheckExclusive finds out.
type Bucket struct {
	bucket  *blob.Bucket
	address string
}

// OpenBucket opens s3://bucket/prefix?options. Besides gocloud's options there is timeout, how long the store may be silent (default 1m):
// then a request is given up and sent again, at most eight times in all, with pauses of up to a twelfth of it.
func OpenBucket(ctx context.Context, u *url.URL) (*Bucket, error) {
	if u.Host == "" {
		return nil, fmt.Errorf("export to %q: write s3://BUCKET/PREFIX", u.Redacted())
	}
	prefix := strings.Trim(u.Path, "/")
	open, options := *u, u.Query()
	open.Path = ""
	silence := defaultSilence
	if text := options.Get("timeout"); text != "" {
		var err error
		if silence, err = time.ParseDuration(text); err != nil || silence <= 0 {
			return nil, fmt.Errorf("export to %s: timeout=%s: use a duration such as 30s", u.Redacted(), text)
		}
		options.Del("timeout")
		open.RawQuery = options.Encode()
	}
	b, err := blob.OpenBucket(ctx, open.String())
	if err == nil {
		b, err = withPatience(ctx, b, open.Host, options, silence)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", u.Redacted(), err)
	}
	if prefix != "" {
		b = blob.PrefixedBucket(b, prefix+"/")
	}
	return &Bucket{bucket: b, address: "s3://" + u.Host + strings.TrimSuffix("/"+prefix, "/")}, nil
}

// withPatience opens a bucket again with a client of the same configuration that neither waits for ever nor gives up at once: the SDK's own
// waits as long as the connection lives, and tries three times.
func withPatience(ctx context.Context, b *blob.Bucket, name string, options url.Values, silence time.Duration) (*blob.Bucket, error) {
	var client *s3.Client
	if !b.As(&client) {
		return nil, errors.New("BUG: an S3 bucket without an S3 client")
	}
	_ = b.Close()
	dial := (&net.Dialer{Timeout: min(silence, 10*time.Second)}).DialContext
	own := s3.New(client.Options(), func(o *s3.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &impatient{c, silence}, nil
			}
		})
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts, r.MaxBackoff = tries, silence/pauses
			r.RateLimiter = ratelimit.None // the number of tries is bound enough
		})
		o.Logger = logging.Nop{} // what fails is an error, and who reads a whole export checks its own sums
	})
	return s3blob.OpenBucket(ctx, own, name, &s3blob.Options{
		EncryptionType: types.ServerSideEncryption(options.Get("ssetype")), KMSEncryptionID: options.Get("kmskeyid"),
		RequestChecksumCalculation: own.Options().RequestChecksumCalculation,
	})
}

// impatient is a connection that breaks when nothing comes or goes for a while.
type impatient struct {
	net.Conn
	silence time.Duration
}

func (c *impatient) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *impatient) Write(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// String is the bucket's address.
func (b *Bucket) String() string { return b.address }

// Close closes the connections.
func (b *Bucket) Close() error { return b.bucket.Close() }

// CheckExclusive makes a file twice: a store that does not know conditional writes overwrites it.
func (b *Bucket) CheckExclusive(ctx context.Context) error {
	probe := "probe-" + rand.Text()[:12]
	// The name is random: if it is there already, an answer was lost and the request sent again.
	if err := b.CreateNew(ctx, probe, []byte{}); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	defer func() { _ = b.Remove(context.WithoutCancel(ctx), probe) }()
	if err := b.CreateNew(ctx, probe, []byte{}); !errors.Is(err, ErrExists) {
		if err != nil {
			return err
		}
		return fmt.Errorf("%s does not honour If-None-Match, so two exporters could publish the same cut: use a store with conditional writes", b.address)
	}
	return nil
}

// Create begins a file, uploaded in parts while it is written.
func (b *Bucket) Create(ctx context.Context, path string) (Writer, error) {
	ctx, cancel := context.WithCancel(ctx)
	w, err := b.bucket.NewWriter(ctx, path, &blob.WriterOptions{ContentType: contentType(path), DisableContentTypeDetection: true})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &objectWriter{path: path, writer: w, cancel: cancel}, nil
}

type objectWriter struct {
	path   string
	writer *blob.Writer
	cancel context.CancelFunc
}

func (w *objectWriter) Write(p []byte) (int, error) { return w.writer.Write(p) }

func (w *objectWriter) Commit() error {
	defer w.cancel()
	if err := w.writer.Close(); err != nil {
		return failed("write", w.path, err)
	}
	return nil
}

func (w *objectWriter) Abort() {
	w.cancel() // before Close: a cancelled upload does not appear
	_ = w.writer.Close()
}

// CreateNew makes a file if there is none.
func (b *Bucket) CreateNew(ctx context.Context, path string, data []byte) error {
	err := b.bucket.WriteAll(ctx, path, data, &blob.WriterOptions{ContentType: contentType(path), DisableContentTypeDetection: true, IfNotExist: true})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return fmt.Errorf("%s %w", path, ErrExists)
	}
	if err != nil {
		return failed("make", path, err)
	}
	return nil
}

func contentType(path string) string {
	switch {
	case strings.HasSuffix(path, ".parquet"):
		return "application/vnd.apache.parquet"
	case strings.HasSuffix(path, ".json"), strings.HasSuffix(path, "_SUCCESS"):
		return "application/json"
	}
	return "application/octet-stream"
}

func notFound(err error, doing, path string) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	return failed(doing, path, err)
}

func failed(doing, path string, err error) error {
	return fmt.Errorf("%s %s: %w%s", doing, path, err, cure(err))
}

// Read opens a file.
func (b *Bucket) Read(ctx context.Context, path string) (io.ReadCloser, error) {
	r, err := b.bucket.NewReader(ctx, path, nil)
	if err != nil {
		return nil, notFound(err, "read", path)
	}
	return r, nil
}

// Stat returns a file's size.
func (b *Bucket) Stat(ctx context.Context, path string) (Object, error) {
	a, err := b.bucket.Attributes(ctx, path)
	if err != nil {
		return Object{}, notFound(err, "look at", path)
	}
	return Object{Path: path, Size: a.Size, Time: a.ModTime}, nil
}

// List lists the files of a prefix.
func (b *Bucket) List(ctx context.Context, prefix string, f func(Object) error) error {
	all := b.bucket.List(&blob.ListOptions{Prefix: prefix})
	for {
		o, err := all.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failed("list", prefix, err)
		}
		if err := f(Object{Path: o.Key, Size: o.Size, Time: o.ModTime}); err != nil {
			return err
		}
	}
}

// Remove removes a file.
func (b *Bucket) Remove(ctx context.Context, path string) error {
	if err := b.bucket.Delete(ctx, path); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return failed("remove", path, err)
	}
	return nil
}
