package cni

import (
	"fmt"
	"math"
	"math/big"
	"strings"
)

const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"

	// The bounds Kubernetes sets for the annotations, bits per second.
	minRate, maxRate = 1e3, 1e15
	// minBurst is 128 KiB in bits: a token bucket smaller than the largest
	// segmentation-offload packet (64 KiB) throttles far below its rate.
	minBurst = 128 << 10 * 8
	// The bandwidth plugin counts bytes of burst in 32 bits.
	maxBurst = math.MaxUint32
)

// BandwidthFrom reads the limits of a pod's annotations, Kubernetes quantities
// such as "10M" bits per second. It returns nil when there are none, and an
// error that says what to change when one is malformed or out of bounds.
func BandwidthFrom(annotations map[string]string) (*Bandwidth, error) {
	in, err := rate(annotations, ingressAnnotation)
	if err != nil {
		return nil, err
	}
	out, err := rate(annotations, egressAnnotation)
	if err != nil {
		return nil, err
	}
	if in == 0 && out == 0 {
		return nil, nil
	}
	return &Bandwidth{IngressRate: in, IngressBurst: burst(in), EgressRate: out, EgressBurst: burst(out)}, nil
}

func rate(annotations map[string]string, key string) (uint64, error) {
	text, ok := annotations[key]
	if !ok {
		return 0, nil
	}
	v, err := quantity(text)
	if err != nil {
		return 0, fmt.Errorf("annotation %s: %q: %w", key, text, err)
	}
	if v < minRate || v > maxRate {
		return 0, fmt.Errorf("annotation %s: %q is out of bounds: give between 1k and 1P bits per second", key, text)
	}
	return uint64(v), nil
}

// burst is a tenth of a second of traffic. The peers give the plugin's maximum
// of half a gigabyte, which lets most transfers end before the limit is felt.
func burst(rate uint64) uint64 {
	if rate == 0 {
		return 0
	}
	return min(max(rate/10, minBurst), maxBurst)
}

var suffixes = map[string]float64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
	"m": 1e-3, "u": 1e-6, "n": 1e-9,
}

// quantity parses a Kubernetes resource.Quantity: a decimal number with an SI
// or binary suffix or an exponent.
func quantity(s string) (float64, error) {
	end := strings.LastIndexAny(s, "0123456789.") + 1
	factor, ok := suffixes[s[end:]]
	if !ok {
		return 0, fmt.Errorf("unknown suffix %q: use k, M, G or Ki, Mi, Gi", s[end:])
	}
	digits := s[:end]
	if strings.ContainsAny(digits, "xXpP_/bBoO") {
		return 0, fmt.Errorf("not a decimal number")
	}
	v, ok := new(big.Float).SetString(digits)
	if !ok {
		return 0, fmt.Errorf("not a decimal number")
	}
	f, _ := v.Float64()
	return f * factor, nil
}
