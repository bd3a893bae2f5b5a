package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"runtime"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubeAPIVersion is what every runtime answers in VersionResponse.version; the
// kubelet compares it with its own constant.
const kubeAPIVersion = "0.1.0"

// semantic has the form of https://semver.org, with any leading v.
var semantic = regexp.MustCompile(`^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// semanticVersion is what the kubelet can parse: a node whose runtime tells something
// else shows Unknown. What was built from no release, and is known by a commit or a
// word, is 0.0.0 with that as build metadata.
func semanticVersion(version string) string {
	if semantic.MatchString(version) {
		return strings.TrimPrefix(version, "v")
	}
	build := strings.Trim(regexp.MustCompile(`[^0-9A-Za-z-]+`).ReplaceAllString(version, "."), ".")
	return strings.TrimSuffix("0.0.0+"+build, "+")
}

func (s *runtimeService) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeAPIVersion,
		RuntimeName:       s.opt.RuntimeName,
		RuntimeVersion:    semanticVersion(s.opt.Version),
		RuntimeApiVersion: "v1",
	}, nil
}

func (s *runtimeService) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			s.runtimeCondition(),
			condition(runtimeapi.NetworkReady, "NetworkNotReady", s.opt.NetworkReady()),
		}},
		Features: s.opt.Features, RuntimeHandlers: s.opt.Handlers(),
	}
	if req.GetVerbose() {
		info, err := s.statusInfo()
		if err != nil {
			return nil, err
		}
		resp.Info = info
	}
	return resp, nil
}

func (s *Server) runtimeCondition() *runtimeapi.RuntimeCondition {
	if !s.isReady() {
		return &runtimeapi.RuntimeCondition{
			Type: runtimeapi.RuntimeReady, Reason: "Recovering", Message: "berth is taking over the running pods",
		}
	}
	return condition(runtimeapi.RuntimeReady, "RuntimeNotReady", s.opt.Domain.Ready())
}

// condition is true when err is nil; else reason and message say why not.
func condition(name, reason string, err error) *runtimeapi.RuntimeCondition {
	if err == nil {
		return &runtimeapi.RuntimeCondition{Type: name, Status: true}
	}
	return &runtimeapi.RuntimeCondition{Type: name, Reason: reason, Message: message(err)}
}

func (s *Server) statusInfo() (map[string]string, error) {
	topics := map[string]any{"golang": runtime.Version(), "rpcs": s.Counters(), "events": s.opt.Domain.EventCounts()}
	if s.opt.Info != nil {
		for k, v := range s.opt.Info() {
			topics[k] = v
		}
	}
	out := make(map[string]string, len(topics))
	for k, v := range topics {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", k, err)
		}
		out[k] = string(b)
	}
	return out, nil
}

func (s *runtimeService) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: s.opt.CgroupDriver}}, nil
}

// UpdateRuntimeConfig carries the pod CIDR for networks made from a template; others come
// from the CNI configuration.
func (s *runtimeService) UpdateRuntimeConfig(_ context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	var cidrs []string
	for c := range strings.SplitSeq(req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr(), ",") {
		if c = strings.TrimSpace(c); c == "" {
			continue
		}
		if _, err := netip.ParsePrefix(c); err != nil {
			return nil, invalid("network_config.pod_cidr has %.80q: give ranges of addresses such as 10.1.2.0/24, with commas between", c)
		}
		cidrs = append(cidrs, c)
	}
	if s.opt.SetPodCIDR != nil {
		if err := s.opt.SetPodCIDR(cidrs); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
