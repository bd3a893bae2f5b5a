package shimv2

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	runc "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"berth/oci/shimapi"
)

// IsRunc reports whether a shim takes the options of runc.
func IsRunc(program string) bool { return strings.Contains(filepath.Base(program), "shim-runc-") }

// encodeOptions makes the message that the shim expects: containerd.runc.v1.Options or
// runtimeoptions.v1.Options, as containerd decides it by the shim's name; nil without
// options. Keys are the fields' names in any spelling: BinaryName, binary_name, binaryName.
func encodeOptions(r shimapi.Runtime) (*anypb.Any, error) {
	if len(r.Options) == 0 {
		return nil, nil
	}
	var m proto.Message = &runtimeoptions.Options{}
	if IsRunc(r.Shim) {
		m = &runc.Options{}
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	named := map[string]any{}
	for key, value := range r.Options {
		f := fieldOf(fields, key)
		if f == nil {
			return nil, fmt.Errorf("option %s is none of %s", key, m.ProtoReflect().Descriptor().FullName())
		}
		if text, ok := value.(string); ok && f.Kind() == protoreflect.BytesKind {
			value = []byte(text) // protojson wants base64, as [json] writes it
		}
		named[string(f.Name())] = value
	}
	text, err := json.Marshal(named)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	return packed(m)
}

func fieldOf(fields protoreflect.FieldDescriptors, key string) protoreflect.FieldDescriptor {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	for i := range fields.Len() {
		if f := fields.Get(i); plain(string(f.Name())) == plain(key) {
			return f
		}
	}
	return nil
}

// packed puts a message into an Any under the type's plain name, as containerd does.
func packed(m proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}
