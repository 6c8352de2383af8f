package kafka

import (
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// reserve is how many bytes of the disk are left to what is not records: indexes, groups' offsets, state.
const reserve = 8 << 20

// guard refuses records before the disk is full, with the error that clients retry (KAFKA_STORAGE_ERROR). kfake itself notices a
// full disk only when a write fails, after it has taken the batch's sequence number for seen: the same batch sent again would
// be acknowledged as a duplicate and be lost.
func guard(cluster *kfake.Cluster, dir string) {
	cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		produce, ok := request.(*kmsg.ProduceRequest)
		if !ok {
			return nil, nil, false
		}
		var disk syscall.Statfs_t
		if err := syscall.Statfs(dir, &disk); err != nil {
			// What cannot be asked is left to the write itself.
			return nil, nil, false
		}
		wanted := uint64(reserve)
		for _, topic := range produce.Topics {
			for _, partition := range topic.Partitions {
				wanted += uint64(len(partition.Records))
			}
		}
		if disk.Bavail*uint64(disk.Bsize) >= wanted || produce.Acks == 0 {
			return nil, nil, false
		}
		return refusal(produce), nil, true
	})
}

// refusal answers every partition of the request with a storage error.
func refusal(produce *kmsg.ProduceRequest) *kmsg.ProduceResponse {
	response := produce.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range produce.Topics {
		answer := kmsg.NewProduceResponseTopic()
		answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
		for _, partition := range topic.Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.ErrorCode, p.BaseOffset = partition.Partition, kerr.KafkaStorageError.Code, -1
			answer.Partitions = append(answer.Partitions, p)
		}
		response.Topics = append(response.Topics, answer)
	}
	return response
}
