package registry

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// sources are the hosts that gave bytes of one blob in the course of one pull.
type sources struct {
	given    map[*host]bool // since the blob was last rejected
	wrong    map[*host]bool // gave bytes that can't be the blob's
	short    bool           // one of them was found out since the blob was last rejected
	rejected int
}

// capable are the hosts configured to answer for a digest or, without one, for a tag.
func (r *Repository) capable(want digest.Digest) []*host {
	var able []*host
	for _, h := range r.hosts {
		if want == "" && h.resolve || want != "" && h.pull {
			able = append(able, h)
		}
	}
	return able
}

// candidates are the hosts to ask, in order. Those that gave wrong bytes for the digest
// are left out; when all did, the last host, the registry itself, is asked again.
func (r *Repository) candidates(want digest.Digest) []*host {
	able := r.capable(want)
	r.mu.Lock()
	defer r.mu.Unlock()
	src := r.blobs[want]
	if src == nil || len(able) == 0 {
		return able
	}
	last := able[len(able)-1]
	able = slices.DeleteFunc(able, func(h *host) bool { return src.wrong[h] })
	if len(able) == 0 {
		return []*host{last}
	}
	return able
}

// sourcesOf gives the record of a blob's hosts. The caller holds mu.
func (r *Repository) sourcesOf(d digest.Digest) *sources {
	src := r.blobs[d]
	if src == nil {
		src = &sources{given: map[*host]bool{}, wrong: map[*host]bool{}}
		r.blobs[d] = src
	}
	return src
}

// gives notes that a host answers with bytes of the blob.
func (r *Repository) gives(d digest.Digest, h *host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sourcesOf(d).given[h] = true
}

// endedShort notes that a host took its answer for complete when bytes were missing.
func (r *Repository) endedShort(d digest.Digest, h *host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	src := r.sourcesOf(d)
	src.wrong[h], src.short = true, true
}

// reject notes that what the hosts gave together is not the blob. Where one of them
// ended short it is to blame, else all are. It tells whether to fetch the blob anew:
// each host is asked once, and the last of them once more, because what damaged the
// bytes may have been the way and not the host.
func (r *Repository) reject(d digest.Digest) bool {
	limit := len(r.capable(d))
	r.mu.Lock()
	defer r.mu.Unlock()
	src := r.sourcesOf(d)
	if !src.short {
		for h := range src.given {
			src.wrong[h] = true
		}
	}
	clear(src.given)
	src.short = false
	src.rejected++
	return src.rejected <= limit
}
