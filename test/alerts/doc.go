// Package alerts tests the rules and the dashboard of hack/monitoring by Prometheus's own
// code: each alert is provoked by what the daemon's metrics say then.
//
// It is a module of its own, because what it imports is larger than berth.
package alerts
