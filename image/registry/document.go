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

// MaxDocument is how many bytes a manifest, an index, a configuration or any other document
// of an image may have. It is the size of manifests that the OCI distribution specification
// wants registries to accept.
const MaxDocument = 4 << 20

// maxValues is how many values (objects, lists, strings, numbers) a document may have. An
// image of 500 layers has about 5,000. The limit of bytes alone does not bound the memory:
// "{}," has three bytes and takes about a hundred when decoded.
const maxValues = 50_000

// Decode decodes a JSON document of a registry or an archive into v. It refuses documents
// with more than 50,000 values, so that v takes at most some MiB more than raw. The error
// says what is wrong with the document.
func Decode(raw []byte, v any) error {
	if len(raw) > MaxDocument {
		return fmt.Errorf("it has %d bytes; at most %d are read", len(raw), MaxDocument)
	}
	if n := countValues(raw); n > maxValues {
		return fmt.Errorf("it holds %d values; at most %d are read; make it shorter (fewer descriptors, history entries, labels or annotations)", n, maxValues)
	}
	return json.Unmarshal(raw, v)
}

// countValues returns an upper bound for the number of values in a JSON text. Every value but
// the first follows one of the characters that are counted.
func countValues(raw []byte) int {
	n, quoted := 1, false
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			quoted = !quoted
		case '\\':
			i++ // a backslash is inside a string, and a quote after it does not end the string
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

// inflate decompresses a body that a server compressed although the request forbade it. A
// body that is not compressed is returned unchanged.
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

// isObject reports whether raw is a JSON object, and not for example the HTML page of a proxy.
// An object with too many values counts too: [Decode] reports it with its reason.
func isObject(raw []byte) bool {
	return countValues(raw) > maxValues || bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) && json.Valid(raw)
}

// isManifest reports whether a document may be a manifest or an index of any kind. All of
// them have a schemaVersion.
func isManifest(raw []byte) bool {
	var doc struct {
		SchemaVersion json.RawMessage `json:"schemaVersion"`
	}
	return isObject(raw) && (Decode(raw, &doc) != nil || doc.SchemaVersion != nil)
}

// kindOfDocument describes a document that was sent in place of a manifest, for an error.
func kindOfDocument(resp *http.Response) string {
	if t := mediaType(resp); t != "" {
		return "a document of type " + printable(t, 100)
	}
	return "a document without a type"
}
