package oci

import (
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ResolvConf is the content of a pod's /etc/resolv.conf: what dns says, or the
// node's own file when it says nothing. Entries with white space or control
// characters are left out, as they would add lines of their own.
func ResolvConf(dns *runtimeapi.DNSConfig, hostFile []byte) []byte {
	var b strings.Builder
	line := func(keyword string, values []string) {
		if len(values) > 0 {
			fmt.Fprintf(&b, "%s %s\n", keyword, strings.Join(values, " "))
		}
	}
	line("search", wordsOf(dns.GetSearches()))
	for _, s := range wordsOf(dns.GetServers()) {
		line("nameserver", []string{s})
	}
	line("options", wordsOf(dns.GetOptions()))
	if b.Len() == 0 {
		return hostFile
	}
	return []byte(b.String())
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

// Hosts is the content of a pod's /etc/hosts where the kubelet mounts none: the
// usual names of the loopback, then the pod's own name at each of its addresses.
func Hosts(hostname string, ips []string) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	for _, ip := range ips {
		if hostname != "" {
			fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
		}
	}
	return []byte(b.String())
}
