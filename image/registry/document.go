package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"
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

func mediaType(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

func (c *Client) readDocument(resp *http.Response) ([]byte, error) {
	body := c.watch(resp)
	defer body.Close() //nolint:errcheck // only read
	var raw bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= MaxDocument {
		raw.Grow(int(n) + bytes.MinRead)
	}
	_, err := raw.ReadFrom(io.LimitReader(body, MaxDocument+1))
	if err == nil && raw.Len() > MaxDocument {
		err = fmt.Errorf("%w: the document is larger than %d bytes", errFinal, MaxDocument)
	}
	if err == nil && resp.Header.Get("Content-Encoding") == "gzip" {
		return inflate(raw.Bytes())
	}
	return raw.Bytes(), err
}

// inflate undoes the compression that some servers apply although they were asked not
// to. What only claims to be compressed is given as it is.
func inflate(raw []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.EOF) {
		return raw, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: gzip: %w", errWrong, err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, MaxDocument+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: gzip: %w", errWrong, err)
	case len(plain) > MaxDocument:
		return nil, fmt.Errorf("%w: the document is larger than %d bytes", errFinal, MaxDocument)
	}
	return plain, nil
}

// isObject tells a document from a page of a proxy or a login form. One that holds too
// much to be decoded counts as a document, so that its reader says what is wrong.
func isObject(raw []byte) bool {
	return countValues(raw) > maxValues || bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) && json.Valid(raw)
}

// isManifest tells whether a document may be a manifest or an index of any kind: all
// have a schemaVersion.
func isManifest(raw []byte) bool {
	var doc struct {
		SchemaVersion json.RawMessage `json:"schemaVersion"`
	}
	return isObject(raw) && (Decode(raw, &doc) != nil || doc.SchemaVersion != nil)
}

// kindOfDocument names what was sent instead of a manifest.
func kindOfDocument(resp *http.Response) string {
	if t := mediaType(resp); t != "" {
		return "a document of type " + printable(t, 100)
	}
	return "a document without a type"
}
