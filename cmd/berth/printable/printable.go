package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text is s with everything escaped that is not a visible character or a space:
// \n, \t and their like, \x1b for other bytes, \u202e for other characters. A
// backslash stays as it is, so an escape can't be told from text that looks like
// one; neither does anything to a terminal.
func Text(s string) string {
	if clean(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// clean tells whether s needs no escape, as nearly all text does.
func clean(s string) bool {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// Short is [Text] of the first most bytes of s, and how many bytes were left out.
func Short(s string, most int) string {
	if len(s) <= most {
		return Text(s)
	}
	cut := most
	for cut > 0 && cut > most-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%d bytes more)", Text(s[:cut]), len(s)-cut)
}

// JSON is a valid JSON document with the characters escaped that [Text] escapes.
// Encoders escape those below a space and leave the others, which can only stand
// in strings. Bytes that are not UTF-8 become U+FFFD.
func JSON(document []byte) []byte {
	out := make([]byte, 0, len(document))
	for len(document) > 0 {
		r, size := utf8.DecodeRune(document)
		switch {
		case r == '\n' || strconv.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r == '\t' || r == '\r': // between values: inside a string they are escaped already
			out = append(out, ' ')
		case r > 0xffff: // as a pair of surrogates
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		document = document[size:]
	}
	return out
}
