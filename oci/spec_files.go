package oci

import (
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ResolvConf is the content of a pod's /etc/resolv.conf: what dns says, or the
// node's own file when it says nothing. An entry of searches or options may hold
// several words between spaces or tabs; a server is one word. Entries with control
// characters are left out, as they would add lines of their own.
func ResolvConf(dns *runtimeapi.DNSConfig, hostFile []byte) []byte {
	var b strings.Builder
	line := func(keyword string, values []string) {
		if len(values) > 0 {
			fmt.Fprintf(&b, "%s %s\n", keyword, strings.Join(values, " "))
		}
	}
	line("search", wordsOf(splitWords(dns.GetSearches())))
	for _, s := range wordsOf(dns.GetServers()) {
		line("nameserver", []string{s})
	}
	line("options", wordsOf(splitWords(dns.GetOptions())))
	if b.Len() == 0 {
		return hostFile
	}
	return []byte(b.String())
}

func splitWords(list []string) []string {
	var out []string
	for _, s := range list {
		if !strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && (r < ' ' || r == 0x7f) }) {
			out = append(out, strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })...)
		}
	}
	return out
}

func wordsOf(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			out = append(out, s)
		}
	}
	return out
}
