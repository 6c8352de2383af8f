// Package kafka runs Apache Kafka, the real one, for tests: its jars come from Maven, pinned by the pom.xml beside this file, and
// each node is a Java process that is its own controller (KRaft). It holds what Spillway needs of a production cluster: everything
// that is not set here is Kafka's default, the largest message and the shortest session among them.
package kafka

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/bench/port"
	"spillway.dev/bench/process"
)

//go:embed pom.xml
var pom []byte

// Fetch puts Kafka's jars (54 MB) into dir with Maven, unless they are there. It needs java and mvn on the PATH.
func Fetch(ctx context.Context, dir string) error {
	for _, program := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("fetch Kafka: %s is missing: install a Java 17 runtime and Maven (Debian: openjdk-17-jre-headless maven)", program)
		}
	}
	sum := sha256.Sum256(pom)
	want := hex.EncodeToString(sum[:])
	marker := filepath.Join(dir, "pom.sha256")
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("fetch Kafka: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("fetch Kafka: %w", err)
	}
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return fmt.Errorf("fetch Kafka: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("fetch Kafka: %w", err)
	}
	mvn := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", file, "dependency:copy-dependencies", "-DoutputDirectory="+dir)
	if out, err := mvn.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch Kafka with Maven: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := os.WriteFile(marker, []byte(want), 0o644); err != nil {
		return fmt.Errorf("fetch Kafka: %w", err)
	}
	return nil
}

// Config says what kind of cluster runs.
type Config struct {
	Jars string // where Fetch put them
	Data string // directory of the nodes' logs
	// Nodes is how many there are: 1 or 3. With three, topics have three replicas of which two must acknowledge.
	Nodes int
	// Heap is the Java heap of a node in MiB; zero means 384.
	Heap int
}

// Cluster is a running cluster.
type Cluster struct {
	// Nodes are the brokers' processes, by node id - 1. Started again, a node continues on its data and its ports.
	Nodes []*process.Process

	config  Config
	brokers []string
}

// Start formats the nodes' directories, starts them and waits until all of them serve.
func Start(ctx context.Context, starter *process.Starter, config Config) (_ *Cluster, err error) {
	if config.Nodes != 1 && config.Nodes != 3 {
		return nil, fmt.Errorf("start Kafka: a cluster has 1 or 3 nodes, not %d", config.Nodes)
	}
	if config.Heap == 0 {
		config.Heap = 384
	}
	ports, err := new(port.Finder).Find(2 * config.Nodes)
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	c := &Cluster{config: config}
	var voters []string
	for i := range config.Nodes {
		c.brokers = append(c.brokers, "127.0.0.1:"+strconv.Itoa(ports[2*i]))
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[2*i+1]))
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	for i := range config.Nodes {
		dir := filepath.Join(config.Data, "node"+strconv.Itoa(i+1))
		properties := filepath.Join(dir, "server.properties")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("start Kafka: %w", err)
		}
		if err := os.WriteFile(properties, []byte(c.properties(i+1, dir, voters, ports[2*i], ports[2*i+1])), 0o644); err != nil {
			return nil, fmt.Errorf("start Kafka: %w", err)
		}
		format := exec.CommandContext(ctx, "java", c.java("kafka.tools.StorageTool", "format", "-t", "c3BpbGx3YXktaW4tYmVuY2g", "-c", properties)...)
		if out, err := format.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("format Kafka's directory: %w: %s", err, bytes.TrimSpace(out))
		}
		node, err := starter.Start(ctx, process.Spec{
			Name: "kafka-" + strconv.Itoa(i+1), Path: "java", Args: c.java("kafka.Kafka", properties), Dir: dir,
		})
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, node)
	}
	return c, c.Wait(ctx)
}

// java returns the arguments that run a class of Kafka's.
func (c *Cluster) java(class string, args ...string) []string {
	jars, err := filepath.Abs(c.config.Jars)
	if err != nil {
		jars = c.config.Jars
	}
	return append([]string{
		fmt.Sprintf("-Xmx%dm", c.config.Heap), "-Xms64m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", filepath.Join(jars, "*"), class,
	}, args...)
}

func (c *Cluster) replicas() int { return min(c.config.Nodes, 3) }

func (c *Cluster) properties(id int, dir string, voters []string, client, controller int) string {
	quorum := 1
	if c.replicas() == 3 {
		quorum = 2
	}
	return strings.Join([]string{
		"process.roles=broker,controller",
		"node.id=" + strconv.Itoa(id),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		fmt.Sprintf("listeners=CLIENT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", client, controller),
		fmt.Sprintf("advertised.listeners=CLIENT://127.0.0.1:%d", client),
		"inter.broker.listener.name=CLIENT",
		"controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs=" + filepath.Join(dir, "log"),
		"auto.create.topics.enable=false",
		fmt.Sprintf("default.replication.factor=%d", c.replicas()),
		fmt.Sprintf("min.insync.replicas=%d", quorum),
		fmt.Sprintf("offsets.topic.replication.factor=%d", c.replicas()),
		"offsets.topic.num.partitions=5",
		fmt.Sprintf("transaction.state.log.replication.factor=%d", c.replicas()),
		fmt.Sprintf("transaction.state.log.min.isr=%d", quorum),
		"group.initial.rebalance.delay.ms=0",
		"",
	}, "\n")
}

// Brokers returns the addresses of all nodes, as they advertise themselves.
func (c *Cluster) Brokers() []string { return c.brokers }

// Wait blocks until every node that runs takes part.
func (c *Cluster) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...), kgo.RetryTimeout(2*time.Second))
	if err != nil {
		return fmt.Errorf("wait for Kafka: %w", err)
	}
	defer client.Close()
	for {
		running := 0
		for _, n := range c.Nodes {
			if n.Running() {
				running++
			}
		}
		if running < len(c.Nodes)/2+1 {
			return fmt.Errorf("wait for Kafka: %d of %d nodes run: see %s", running, len(c.Nodes), c.Nodes[0].Log())
		}
		// Asked without franz-go's cache of such answers.
		meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
		there := 0
		if err == nil {
			there = len(meta.Brokers)
		}
		if there >= running {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for Kafka: %d of %d brokers are there: see %s", there, running, c.Nodes[0].Log()), err)
		}
	}
}

// Topic makes a topic with Kafka's own settings, and the replicas that the cluster allows.
func (c *Cluster) Topic(ctx context.Context, name string, partitions int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...))
	if err != nil {
		return fmt.Errorf("make topic %s: %w", name, err)
	}
	defer client.Close()
	answer, err := kadm.NewClient(client).CreateTopic(ctx, int32(partitions), int16(c.replicas()), nil, name)
	if err == nil {
		err = answer.Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("make topic %s: %w", name, err)
	}
	return nil
}

// Close ends all nodes at once; their data is thrown away with its directory.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		n.Kill()
	}
}
