// Command cadvisor runs the kubelet's cAdvisor, of the version and with the metrics that
// Kubernetes 1.37 has by default, and prints what the kubelet serves at /metrics/cadvisor.
//
//	cadvisor --containerd SOCKET CGROUP
//
// It looks at CGROUP, as the kubelet does at the cgroup of the pods, and at what is below.
// For each line on its standard input it prints the text of all metrics of containers and
// then "# EOF". It ends with its standard input.
//
// # What it owns
//
// Nothing on the machine. It is a module of its own, so that its many dependencies are not
// berth's.
//
// # Why not the kubelet
//
// The kubelet takes ten minutes to build, needs an API server or a directory of pods, and
// makes cgroups of the machine. What it does with the samples after cAdvisor is one
// function, the labels, which is repeated here.
package main
