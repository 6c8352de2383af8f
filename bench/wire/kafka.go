package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka relays connections to every broker of a cluster. Clients learn the brokers' addresses from the brokers, so these are replaced
// by the relays' own in what passes.
type Kafka struct {
	mu     sync.Mutex
	relays map[string]*Relay // guarded by mu; by the broker's own address
}

// NewKafka makes a relay for each of the brokers (host:port, as they advertise themselves).
func NewKafka(brokers []string) (*Kafka, error) {
	k := &Kafka{relays: map[string]*Relay{}}
	for _, b := range brokers {
		relay, err := newRelay(b, k.filter)
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		k.relays[b] = relay
	}
	return k, nil
}

// Brokers returns the relays' addresses, for KAFKA_BROKERS.
func (k *Kafka) Brokers() []string {
	var all []string
	for _, r := range k.Relays() {
		all = append(all, r.Address())
	}
	return all
}

// Relays returns the relays of all brokers.
func (k *Kafka) Relays() []*Relay {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*Relay
	for _, r := range k.relays {
		all = append(all, r)
	}
	return all
}

// Close ends all relays.
func (k *Kafka) Close() error {
	var all []error
	for _, r := range k.Relays() {
		all = append(all, r.Close())
	}
	return errors.Join(all...)
}

// instead returns the address that clients are given for a broker's own.
func (k *Kafka) instead(host string, port int32) (string, int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	relay := k.relays[net.JoinHostPort(host, strconv.Itoa(int(port)))]
	if relay == nil {
		return host, port
	}
	address := relay.listener.Addr().(*net.TCPAddr)
	return address.IP.String(), int32(address.Port)
}

// Keys of the requests whose answers name brokers, and of the one that says which versions the broker speaks.
const (
	keyProduce         = 0
	keyFetch           = 1
	keyMetadata        = 3
	keyFindCoordinator = 10
	keyAPIVersions     = 18
	keyDescribeCluster = 60
)

// From these versions on, answers about records may name brokers too. Clients are told of the versions below only, so that records
// need not be decoded here.
const (
	newestProduce = 9
	newestFetch   = 15
)

type question struct{ key, version int16 }

// filter returns what reads the requests, to know which question an answer belongs to, and what rewrites the answers.
func (k *Kafka) filter(net.Conn, net.Conn) (up, down func(io.Writer, io.Reader) error) {
	var (
		mu    sync.Mutex
		asked = map[int32]question{}
	)
	up = frames(func(frame []byte) ([]byte, error) {
		if len(frame) < 8 {
			return nil, fmt.Errorf("a request of %d bytes", len(frame))
		}
		q := question{int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))}
		switch q.key {
		case keyMetadata, keyFindCoordinator, keyDescribeCluster, keyAPIVersions:
			mu.Lock()
			asked[int32(binary.BigEndian.Uint32(frame[4:]))] = q
			mu.Unlock()
		}
		return frame, nil
	})
	down = frames(func(frame []byte) ([]byte, error) {
		if len(frame) < 4 {
			return nil, fmt.Errorf("an answer of %d bytes", len(frame))
		}
		id := int32(binary.BigEndian.Uint32(frame))
		mu.Lock()
		q, ours := asked[id]
		delete(asked, id)
		mu.Unlock()
		if !ours {
			return frame, nil
		}
		return k.rewrite(q, frame)
	})
	return up, down
}

// rewrite replaces the addresses in one answer.
func (k *Kafka) rewrite(q question, frame []byte) ([]byte, error) {
	answer := kmsg.ResponseForKey(q.key)
	answer.SetVersion(q.version)
	head := 4 // the correlation id
	if answer.IsFlexible() && q.key != keyAPIVersions {
		head++ // and no tags, which no broker sends
		if len(frame) < head || frame[4] != 0 {
			return nil, errors.New("an answer with tags in its header")
		}
	}
	if err := answer.ReadFrom(frame[head:]); err != nil {
		if q.key == keyAPIVersions {
			return frame, nil // a broker that does not speak the version answers in another, once
		}
		return nil, fmt.Errorf("answer to request %d version %d: %w", q.key, q.version, err)
	}
	switch a := answer.(type) {
	case *kmsg.MetadataResponse:
		for i := range a.Brokers {
			a.Brokers[i].Host, a.Brokers[i].Port = k.instead(a.Brokers[i].Host, a.Brokers[i].Port)
		}
	case *kmsg.FindCoordinatorResponse:
		a.Host, a.Port = k.instead(a.Host, a.Port)
		for i := range a.Coordinators {
			a.Coordinators[i].Host, a.Coordinators[i].Port = k.instead(a.Coordinators[i].Host, a.Coordinators[i].Port)
		}
	case *kmsg.DescribeClusterResponse:
		for i := range a.Brokers {
			a.Brokers[i].Host, a.Brokers[i].Port = k.instead(a.Brokers[i].Host, a.Brokers[i].Port)
		}
	case *kmsg.ApiVersionsResponse:
		for i := range a.ApiKeys {
			switch v := &a.ApiKeys[i]; v.ApiKey {
			case keyProduce:
				v.MaxVersion = min(v.MaxVersion, newestProduce)
			case keyFetch:
				v.MaxVersion = min(v.MaxVersion, newestFetch)
			}
		}
	}
	return answer.AppendTo(append([]byte(nil), frame[:head]...)), nil
}

// The largest frame that passes; brokers allow 100 MB by default.
const maxFrame = 256 << 20

// frames passes on what follows a length of four bytes, as change leaves it.
func frames(change func([]byte) ([]byte, error)) func(io.Writer, io.Reader) error {
	return func(dst io.Writer, src io.Reader) error {
		var size [4]byte
		for {
			if _, err := io.ReadFull(src, size[:]); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return fmt.Errorf("relay to Kafka: %w", err)
			}
			n := binary.BigEndian.Uint32(size[:])
			if n > maxFrame {
				return fmt.Errorf("relay to Kafka: a frame of %d bytes", n)
			}
			frame := make([]byte, n)
			if _, err := io.ReadFull(src, frame); err != nil {
				return fmt.Errorf("relay to Kafka: %w", err)
			}
			changed, err := change(frame)
			if err != nil {
				return fmt.Errorf("relay to Kafka: %w", err)
			}
			out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(changed)), uint32(len(changed)))
			if _, err := dst.Write(append(out, changed...)); err != nil {
				return fmt.Errorf("relay to Kafka: %w", err)
			}
		}
	}
}
