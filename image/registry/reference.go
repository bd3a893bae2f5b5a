package registry

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrInvalidReference is wrapped by [Parse]; the text says what is wrong.
var ErrInvalidReference = errors.New("invalid image reference")

const (
	defaultHost = "docker.io"
	defaultTag  = "latest"
	maxName     = 255
)

var (
	pathElem  = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	repoRegex = regexp.MustCompile(`^` + pathElem + `(?:/` + pathElem + `)*$`)
	hostElem  = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	hostRegex = regexp.MustCompile(`^(?:` + hostElem + `(?:\.` + hostElem + `)*|\[[a-fA-F0-9:]+\])(?::[0-9]{1,5})?$`)
	tagRegex  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hexRegex  = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

// Reference is a complete image name: host and repository always, and a tag, a
// digest, or both.
type Reference struct {
	Host   string // "docker.io", with port where one was given
	Repo   string // "library/busybox"
	Tag    string
	Digest digest.Digest
}

// Parse reads a name as users write it: "busybox" is docker.io/library/busybox:latest.
func Parse(s string) (Reference, error) {
	bad := func(format string, args ...any) (Reference, error) {
		return Reference{}, fmt.Errorf("%w %.300q: %s", ErrInvalidReference, s, fmt.Sprintf(format, args...))
	}
	if s == "" {
		return bad("it is empty")
	}
	if hexRegex.MatchString(s) {
		return bad("64 hex digits are an image ID, not a name")
	}
	var r Reference
	rest := s
	if name, d, ok := strings.Cut(rest, "@"); ok {
		rest, r.Digest = name, digest.Digest(d)
		if err := r.Digest.Validate(); err != nil {
			return bad("the digest must be sha256: and 64 lower-case hex digits")
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !tagRegex.MatchString(r.Tag) {
			return bad("the tag must be up to 128 letters, digits, dots, dashes and underscores")
		}
	}
	r.Host, r.Repo = splitHost(rest)
	switch {
	case !hostRegex.MatchString(r.Host):
		return bad("%.100q is not a host name", r.Host)
	case !repoRegex.MatchString(r.Repo):
		return bad("the repository must be lower-case letters and digits, separated by one of . _ - or /")
	case len(r.Host)+1+len(r.Repo) > maxName:
		return bad("the name is longer than %d characters", maxName)
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

// splitHost tells a host from a first path element as docker does: by a dot, a
// port, upper case, or the name localhost.
func splitHost(name string) (host, repo string) {
	first, rest, ok := strings.Cut(name, "/")
	isHost := ok && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first)
	if !isHost {
		first, rest = defaultHost, name
	}
	if first == "index.docker.io" || first == "registry-1.docker.io" {
		first = defaultHost
	}
	if first == defaultHost && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return first, rest
}

// Name is host and repository.
func (r Reference) Name() string { return r.Host + "/" + r.Repo }

// TagName is the name with the tag, "" when there is none.
func (r Reference) TagName() string {
	if r.Tag == "" {
		return ""
	}
	return r.Name() + ":" + r.Tag
}

// DigestName is the name with the digest d.
func (r Reference) DigestName(d digest.Digest) string { return r.Name() + "@" + d.String() }

// String is the complete name.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// wanted is what to ask the registry for: the digest wins over the tag.
func (r Reference) wanted() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
