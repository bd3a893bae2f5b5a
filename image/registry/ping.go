package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of [Client.Ping]: what it asks at most, at once, and for how long each.
const (
	pingHosts    = 64
	pingParallel = 8
	pingTimeout  = 5 * time.Second
)

// Answer is what a host of the configuration said to GET /v2/, the question that the
// distribution specification has for it ("Determining Support").
type Answer struct {
	Registry string // whose images it serves, as the directory is called
	Host     string // its URL; "" if the configuration can't be read
	Took     time.Duration
	// Login: it asked for credentials, and none are configured; it may serve public images.
	Login bool
	// Err is nil when it is a registry that takes the credentials which are configured.
	// With [ErrUnauthorized] it does not take them.
	Err error
}

// Ping asks each host that the first existing directory of [Options.CertsDirs] configures,
// and says which directories it has. Hosts that are more than 64 are not asked: more is true
// then. An error is one of the directory itself.
func (c *Client) Ping(ctx context.Context) (answers []Answer, more bool, err error) {
	names, err := c.configured()
	if err != nil {
		return nil, false, err
	}
	var hosts []*host // of answers, by index; nil: it has its error
	for _, name := range names {
		found, err := c.hostsOf(name)
		if err != nil {
			answers, hosts = append(answers, Answer{Registry: name, Err: err}), append(hosts, nil)
		}
		for _, h := range found {
			answers, hosts = append(answers, Answer{Registry: name, Host: h.String()}), append(hosts, h)
		}
	}
	if more = len(answers) > pingHosts; more {
		answers = answers[:pingHosts]
	}
	var asked sync.WaitGroup
	turns := make(chan struct{}, pingParallel)
	for i := range answers {
		if hosts[i] == nil {
			continue
		}
		asked.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			c.ping(ctx, hosts[i], &answers[i])
		})
	}
	asked.Wait()
	return answers, more, nil
}

// configured are the names of the directories of registries.
func (c *Client) configured() (names []string, err error) {
	for _, root := range c.opts.CertsDirs {
		entries, err := os.ReadDir(root)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		for _, e := range entries {
			if st, err := os.Stat(filepath.Join(root, e.Name())); err == nil && st.IsDir() {
				names = append(names, e.Name())
			}
		}
		return names, err
	}
	return nil, nil
}

// hostsOf are the hosts of a directory. Those for all registries have no registry of their
// own behind them.
func (c *Client) hostsOf(name string) ([]*host, error) {
	if name == "_default" {
		hosts, err := loadHosts(c.opts.CertsDirs, name)
		if n := len(hosts); n > 0 && hosts[n-1].base.Hostname() == name {
			hosts = hosts[:n-1]
		}
		return hosts, err
	}
	registry, err := canonicalHost(portInName.ReplaceAllString(name, ":$1"))
	if err != nil {
		return nil, fmt.Errorf("no registry can be called so: %w", err)
	}
	return loadHosts(c.opts.CertsDirs, registry)
}

// ping asks one host, and again with the credentials that are configured for it.
func (c *Client) ping(ctx context.Context, h *host, a *Answer) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	began := time.Now()
	defer func() { a.Took = time.Since(began) }()
	registry := h.ns
	if registry == "" {
		registry = h.base.Host
	}
	e, err := c.newEndpoint(ctx, h, Reference{Host: registry}, nil)
	if err != nil {
		a.Err = err
		return
	}
	resp, err := e.askBase(ctx) //nolint:bodyclose // askBase closes it
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		if a.Login = e.creds.empty(); a.Login {
			return
		}
		var value string
		if value, err = e.authorize(ctx, resp, e.authorization()); err == nil {
			e.setAuthorization(value)
			resp, err = e.askBase(ctx) //nolint:bodyclose // askBase closes it
		}
	}
	switch {
	case err != nil:
		a.Err = err
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		a.Err = fmt.Errorf("%w: %d %s; the credentials given are wrong or do not suffice", ErrUnauthorized, resp.StatusCode, http.StatusText(resp.StatusCode))
	case resp.StatusCode != http.StatusOK:
		a.Err = fmt.Errorf("%w: it answers %d %s to GET %s", ErrRefused, resp.StatusCode, http.StatusText(resp.StatusCode), resp.Request.URL.Path)
	}
}

// askBase asks for the base of the API. The body, which may be anything, is not read.
func (e *endpoint) askBase(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(withArrival(ctx), http.MethodGet, e.host.base.String()+e.host.api+"/", nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, shorten(err)
	}
	return resp, resp.Body.Close()
}
