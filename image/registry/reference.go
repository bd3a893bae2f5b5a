package registry

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// ErrInvalidReference is wrapped by the errors of [Parse]; the text says what is malformed.
var ErrInvalidReference = errors.New("invalid image reference")

const (
	defaultHost = "docker.io"
	maxName     = 255

	badTag  = "the tag must be up to 128 letters, digits, dots, dashes and underscores"
	badRepo = "the repository must be lower-case letters and digits, separated by one of . _ - or /"
)

// The parts of docker's grammar for names that package name does not check. They must be
// checked, because a host becomes the name of a directory in certs.d and a repository a part
// of URLs.
var (
	pathElem  = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	repoRegex = regexp.MustCompile(`^` + pathElem + `(?:/` + pathElem + `)*$`)
	hostElem  = `(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])`
	hostRegex = regexp.MustCompile(`^(?:` + hostElem + `(?:\.` + hostElem + `)*|\[[a-f0-9:]+\])(?::[0-9]{1,5})?$`)
	tagRegex  = regexp.MustCompile(`^(?:[A-Za-z0-9_].*)?$`)
	hexRegex  = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

// Reference is a complete image name: a host and a repository, with a tag, a digest or both.
// It is in the canonical form that [Parse] gives it: names with the same meaning are equal.
type Reference struct {
	Host   string // "docker.io"; with a port if that is not 443
	Repo   string // "library/busybox"
	Tag    string
	Digest digest.Digest
}

// Parse parses a name in full or in docker's short form: "busybox" is
// docker.io/library/busybox:latest. Its errors wrap [ErrInvalidReference].
func Parse(s string) (Reference, error) {
	bad := func(format string, args ...any) (Reference, error) {
		return Reference{}, fmt.Errorf("%w %.300q: %s", ErrInvalidReference, s, fmt.Sprintf(format, args...))
	}
	switch {
	case s == "":
		return bad("it is empty")
	case hexRegex.MatchString(s):
		return bad("64 hex digits are an image ID, not a name")
	}
	rest, d, pinned := strings.Cut(s, "@")
	if pinned && digest.Digest(d).Validate() != nil {
		return bad("the digest must be sha256: and 64 lower-case hex digits")
	}
	tag, err := name.NewTag(rest, name.WithDefaultTag(""))
	if err != nil {
		return bad("%s", mistake(rest))
	}
	r := Reference{Tag: tag.TagStr(), Digest: digest.Digest(d)}
	if r.Host, err = canonicalHost(tag.RegistryStr()); err != nil {
		return bad("%s", err)
	}
	r.Repo = hubRepo(r.Host, tag.RepositoryStr())
	if flaw := r.flaw(); flaw != "" {
		return bad("%s", flaw)
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = name.DefaultTag
	}
	return r, nil
}

// flaw returns how the reference violates docker's grammar for names, "" if it does not.
func (r Reference) flaw() string {
	switch {
	case !tagRegex.MatchString(r.Tag):
		return badTag
	case !hostRegex.MatchString(r.Host):
		return fmt.Sprintf("%.100q is not a host name", r.Host)
	case !repoRegex.MatchString(r.Repo):
		return badRepo
	case len(r.Name()) > maxName:
		return fmt.Sprintf("the name is longer than %d characters", maxName)
	}
	return ""
}

// hubRepo returns the repository with "library/" added if it is one of docker's official
// images, which have no slash in their short names.
func hubRepo(host, repo string) string {
	if host == defaultHost && !strings.Contains(repo, "/") {
		return "library/" + repo
	}
	return repo
}

// mistake says which part of a name, without digest, package name refuses.
func mistake(s string) string {
	host, _, hasHost := strings.Cut(s, "/")
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		if _, err := name.NewRepository(s[:i]); err == nil {
			return badTag
		}
	}
	if _, err := name.NewRegistry(host); err != nil && hasHost {
		return fmt.Sprintf("%.100q is not a host name", host)
	}
	return badRepo
}

// Name returns HOST/REPOSITORY.
func (r Reference) Name() string { return r.Host + "/" + r.Repo }

// TagName returns HOST/REPOSITORY:TAG, "" if there is no tag.
func (r Reference) TagName() string {
	if r.Tag == "" {
		return ""
	}
	return r.Name() + ":" + r.Tag
}

// DigestName returns HOST/REPOSITORY@d.
func (r Reference) DigestName(d digest.Digest) string { return r.Name() + "@" + d.String() }

// String returns the complete name.
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

// wanted returns the part by which the registry is asked: the digest or, without one, the
// tag.
func (r Reference) wanted() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
