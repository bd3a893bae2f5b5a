package hostcheck

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/image/registry"
)

// checkRegistries asks each host that the directory of registries configures. A mirror that
// does not answer costs every pull its timeout.
func checkRegistries(ctx context.Context, m machine) []Finding {
	c := registry.New(registry.Options{CertsDirs: m.cfg.CertsDir, UserAgent: "berth check"})
	defer c.Close()
	answers, more, err := c.Ping(ctx)
	dirs := strings.Join(m.cfg.CertsDir, ", ")
	switch {
	case err != nil:
		return []Finding{limited(err.Error(), "make certs_dir readable for root")}
	case len(answers) == 0:
		return []Finding{fine("none is configured in %s; each is asked under its own name", dirs)}
	}
	findings := make([]Finding, 0, len(answers)+1)
	for _, a := range answers {
		findings = append(findings, answerOf(a))
	}
	if more {
		findings = append(findings, limited(fmt.Sprintf("only %d are asked", len(answers)), "ask the others by berth image pull"))
	}
	return findings
}

func answerOf(a registry.Answer) Finding {
	who := a.Registry
	if a.Host != "" && a.Host != "https://"+a.Registry {
		who += " at " + a.Host
	}
	took := a.Took.Round(time.Millisecond)
	switch {
	case a.Err == nil && a.Login:
		return fine("%s answers in %v, and gives public images only: no credentials are configured", who, took)
	case a.Err == nil:
		return fine("%s answers in %v", who, took)
	}
	return limited(fmt.Sprintf("%s: %v", who, a.Err), remedy(a))
}

// remedy is what to change for a registry whose answer is an error.
func remedy(a registry.Answer) string {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var network net.Error
	switch err := a.Err; {
	case a.Host == "":
		return "mend its hosts.toml"
	case errors.Is(err, registry.ErrUnauthorized):
		return "mend the credentials in its hosts.toml"
	case errors.As(err, &cert):
		return "name the CA's file as ca in its hosts.toml"
	case errors.As(err, &record), strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return "it speaks no TLS: name it with http:// in hosts.toml, if that is meant"
	case errors.As(err, &dns):
		return "mend its name, or the resolver of this machine"
	case errors.Is(err, unix.ECONNREFUSED):
		return "nothing listens there: mend its port, or start it"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "it does not answer in time: look at the route, the firewall and the proxy"
	case errors.Is(err, registry.ErrRefused):
		return "it is no registry, or its path needs override_path in hosts.toml"
	}
	return "mend its hosts.toml, or the network between"
}
