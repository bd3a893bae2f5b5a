package cri

import "google.golang.org/protobuf/proto"

// A streamed list is cut into messages of at most this many bytes (an item
// larger than that goes alone) and items, far below any client's message limit.
const (
	batchBytes = 1 << 20
	batchItems = 1000
)

// inBatches hands every item to send exactly once, in order, in lists that are
// never empty.
func inBatches[T proto.Message](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && n < batchItems {
			size += proto.Size(items[n])
			if n > 0 && size > batchBytes {
				break
			}
			n++
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
