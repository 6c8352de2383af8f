// Package kafka runs the embedded broker: franz-go's kfake, which speaks Kafka's protocol and keeps its log in a directory.
//
// What it is not: after a kill -9 it may have forgotten producers' idempotence windows; what it had not yet written through is the
// kernel's to keep; and a start reads the whole retained log (measured: 1.4 s a GiB), so the retention
// is bounded by bytes as well as by time. Spillway relies on none of these, since the table knows what it has, but other programs may:
// the standalone is for one machine, and KAFKA_BROKERS names a real cluster.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/standalone/port"
)

// Config says where the broker keeps its log and what it serves.
type Config struct {
	// Data is the directory of the log. It belongs to one process, which must hold it.
	Data string
	// Listen is the address to serve, 127.0.0.1:0 for any free port.
	Listen string
	// Topic is made at the first start, and Topic + ".dead" with one partition.
	Topic string
	// Partitions of the topic. 0: 4. A topic that exists keeps its number.
	Partitions int
	// Retention is for how long records are kept. 0: 7 days.
	Retention time.Duration
	// RetentionBytes is how much of a partition's log is kept, in bytes. It also bounds how long ingest may be away before
	// events are lost to it. 0: 1 GiB.
	RetentionBytes int64
	// RetentionCheck is how often what is beyond the retention is dropped. 0: 10 seconds.
	RetentionCheck time.Duration
	// Sync writes every batch through to the disk before it is acknowledged.
	Sync bool
	// AutoCreate lets clients make a topic by naming it, as tests do.
	AutoCreate bool
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	ending  chan struct{}
	ended   chan struct{}
}

// Start opens the log and serves it.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Broker, error) {
	if cfg.Partitions == 0 {
		cfg.Partitions = 4
	}
	if cfg.Retention == 0 {
		cfg.Retention = 7 * 24 * time.Hour
	}
	if cfg.RetentionBytes == 0 {
		cfg.RetentionBytes = 1 << 30
	}
	if cfg.RetentionCheck == 0 {
		cfg.RetentionCheck = 10 * time.Second
	}
	host, number, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("Kafka's address %q is not HOST:PORT: %w", cfg.Listen, err)
	}
	wanted, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("Kafka's port %q is no number: %w", number, err)
	}
	if host != "127.0.0.1" && host != "localhost" {
		return nil, fmt.Errorf("the embedded Kafka has no passwords and serves 127.0.0.1 only, not %s: set KAFKA_BROKERS to use another broker", host)
	}
	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(wanted),
		kfake.ClusterID("spillway"),
		kfake.DataDir(cfg.Data),
		kfake.DefaultNumPartitions(cfg.Partitions),
		kfake.ListenFn(listen),
		kfake.WithLogger(logger{log}),
		kfake.GroupMinSessionTimeout(time.Second),
	}
	if cfg.Sync {
		options = append(options, kfake.SyncWrites())
	}
	if cfg.AutoCreate {
		options = append(options, kfake.AllowAutoTopicCreation())
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		var bind *net.OpError
		if errors.As(err, &bind) {
			return nil, port.Cure{What: "Kafka", Flag: "--kafka-listen", Env: "SPILLWAY_KAFKA_LISTEN"}.Explain(cfg.Listen, err)
		}
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	guard(cluster, cfg.Data)
	b := &Broker{cluster: cluster, addr: strings.Join(cluster.ListenAddrs(), ","), ending: make(chan struct{}), ended: make(chan struct{})}
	if err := b.topics(ctx, cfg); err != nil {
		cluster.Close()
		return nil, err
	}
	go b.retain(cfg.RetentionCheck)
	return b, nil
}

// retain drops what is beyond the retention, which kfake itself does once an hour: too late for a size.
func (b *Broker) retain(every time.Duration) {
	defer close(b.ended)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			b.cluster.ApplyRetention()
		case <-b.ending:
			return
		}
	}
}

// listen binds without trying again: kfake would otherwise hide which port is taken.
func listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}

// topics makes what is missing and sets the retention of what is there: kfake keeps everything unless a topic says otherwise.
func (b *Broker) topics(ctx context.Context, cfg Config) error {
	if cfg.Topic == "" {
		return nil
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.addr))
	if err != nil {
		return fmt.Errorf("make Kafka's topics: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	admin := kadm.NewClient(client)
	configs := map[string]*string{
		"retention.ms":      ref(strconv.FormatInt(cfg.Retention.Milliseconds(), 10)),
		"retention.bytes":   ref(strconv.FormatInt(cfg.RetentionBytes, 10)),
		"segment.bytes":     ref(strconv.FormatInt(min(cfg.RetentionBytes/4, 64<<20), 10)),
		"max.message.bytes": ref(strconv.Itoa(8 << 20)),
	}
	for topic, partitions := range map[string]int{cfg.Topic: cfg.Partitions, cfg.Topic + ".dead": 1} {
		made, err := admin.CreateTopic(ctx, int32(partitions), 1, configs, topic)
		if err == nil {
			err = made.Err
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("make Kafka's topic %s: %w", topic, err)
		}
		var alter []kadm.AlterConfig
		for name, value := range configs {
			alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: value})
		}
		responses, err := admin.AlterTopicConfigs(ctx, alter, topic)
		if err != nil {
			return fmt.Errorf("set the retention of Kafka's topic %s: %w", topic, err)
		}
		for _, response := range responses {
			if response.Err != nil {
				return fmt.Errorf("set the retention of Kafka's topic %s: %w", topic, response.Err)
			}
		}
	}
	return nil
}

func ref(text string) *string { return &text }

// Addr is the address that clients bootstrap from, HOST:PORT.
func (b *Broker) Addr() string { return b.addr }

// Stop writes what is open and ends the broker.
func (b *Broker) Stop() {
	close(b.ending)
	<-b.ended
	b.cluster.Close()
}

// logger hands kfake's messages on; below warnings they are of no interest to an operator.
type logger struct{ log *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	message := strings.TrimSpace(fmt.Sprintf(format, args...))
	switch level {
	case kfake.LogLevelError:
		l.log.Error("kafka: " + message)
	case kfake.LogLevelWarn:
		l.log.Warn("kafka: " + message)
	default:
		l.log.Debug("kafka: " + message)
	}
}
