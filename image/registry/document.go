package registry

import (
	"encoding/json"
	"fmt"
)

// MaxDocument is how many bytes a manifest, an index, a configuration or any other
// document about an image may have: what the OCI distribution specification asks
// registries to take.
const MaxDocument = 4 << 20

// maxValues is how many values (objects, lists, strings, numbers) a document may hold.
// An image of 500 layers has some 5,000. "{}," is three bytes and becomes a hundred in
// memory, so the size alone is no bound.
const maxValues = 50_000

// Decode reads a JSON document from a registry or an archive into v, which takes at
// most some MiB more than raw. The error says what is wrong with it.
func Decode(raw []byte, v any) error {
	if len(raw) > MaxDocument {
		return fmt.Errorf("it has %d bytes; at most %d are read", len(raw), MaxDocument)
	}
	if n := countValues(raw); n > maxValues {
		return fmt.Errorf("it holds %d values; at most %d are read; make it shorter (fewer descriptors, history entries, labels or annotations)", n, maxValues)
	}
	return json.Unmarshal(raw, v)
}

// countValues gives at least the number of values in a JSON text: each but the first
// comes after one of the characters counted.
func countValues(raw []byte) int {
	n, quoted := 1, false
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			quoted = !quoted
		case '\\':
			i++ // stands only in strings, and what it quotes ends none
		case ',', ':', '[', '{':
			if !quoted {
				n++
			}
		}
	}
	return n
}
