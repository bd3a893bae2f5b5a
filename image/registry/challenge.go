package registry

import (
	"net/http"
	"strings"
)

// challenge is a challenge from the WWW-Authenticate header of an answer with status 401
// (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string            // in lower case; "" if the answer has no challenge
	params map[string]string // by name, in lower case
	plain  bool              // the answer came by plain HTTP
}

// challengeOf returns a challenge of the answer whose scheme is supported: Bearer if there
// is one, else Basic.
func challengeOf(resp *http.Response) challenge {
	list := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	var best challenge
	for _, scheme := range []string{"bearer", "basic"} {
		for _, c := range list {
			if best.scheme == "" && c.scheme == scheme {
				best = c
			}
		}
	}
	best.plain = resp.Request.URL.Scheme == "http"
	return best
}

// parseChallenges parses the values of WWW-Authenticate headers, each of which may contain
// several challenges. The rest of a value after a syntax error is ignored.
func parseChallenges(headers []string) []challenge {
	var list []challenge
	for _, rest := range headers {
		var cur *challenge // of this header
		for {
			var word string
			if word, rest = cutToken(strings.TrimLeft(rest, " \t,")); word == "" {
				break
			}
			value, after, isParam := cutValue(rest)
			if !isParam {
				list = append(list, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
				cur = &list[len(list)-1]
				continue
			}
			rest = after
			if cur != nil {
				cur.params[strings.ToLower(word)] = value
			}
		}
	}
	return list
}

// cutToken splits off a token (RFC 9110, section 5.6.2): a scheme or a parameter's name.
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutValue splits off "=" and the value of a parameter, quoted or not. An unquoted value
// may contain everything but commas and spaces: some hosts don't quote scopes and URLs.
func cutValue(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(strings.TrimLeft(s, " \t"), "=")
	if !ok {
		return "", s, false
	}
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", \t")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), "", true // the closing quote is missing
}
