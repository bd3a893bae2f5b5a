// Package containerdview shows pods and containers as containerd would, to the kubelet's
// cAdvisor.
//
// # What it owns
//
// Three read-only calls of containerd's API, in the namespace k8s.io: Containers.Get,
// Tasks.Get and Version. With its default feature gates the kubelet takes what it serves
// at /metrics/cadvisor, and the network, process and pod figures of /stats/summary, from
// its built-in cAdvisor. That one watches cgroups and knows whose they are by asking
// containerd at /run/containerd/containerd.sock, an address that can't be set. Without an
// answer a cgroup has no pod, namespace, container and image, and no network.
//
// What cAdvisor makes of the answers:
//
//   - A cgroup whose last name has 64 digits and small letters in a row is asked for by
//     those. Once refused it stays nameless for good, so half-made pods and containers are
//     told of as well: their cgroups are made before they are whole. Until the process is
//     there Tasks.Get answers NotFound, which is asked again for three seconds. Of what has
//     ended it tells no process, which reads no network, and the exit code, which is asked
//     for when the cgroup is gone.
//   - The labels io.kubernetes.* name pod, namespace and container. Of a container with the
//     label io.cri-containerd.kind=sandbox the network is read, in /proc/PID/net of its
//     process; of any other it is not, since all of a pod have the same.
//   - The image is shown as it is. Many dashboards count only what has one, so a pod
//     sandbox, which has none here, gets [SandboxImage].
//   - Processes, threads, descriptors, block I/O, memory and CPU come from the cgroup, and
//     the limit of open files from the process. The use of the writable layer is not read
//     from containerd at all; the kubelet takes that from the CRI.
//
// # Invariants
//
//   - It changes nothing: every other call of these services, and every other service,
//     answers Unimplemented. Other namespaces are empty.
//   - No environment variable is shown, though the spec has a place for them: the kubelet's
//     cAdvisor exports none, they hold secrets, and with them an answer could be larger
//     than it takes. What is left of the spec is the path of the cgroup.
//   - The kind of a container is never taken from its labels, which a tenant writes.
//   - An answer is made of what is in memory and waits for nothing.
//
// # Why not the socket of CRI-O
//
// cAdvisor knows CRI-O as well, by HTTP on a socket whose address is fixed too. But it takes
// only cgroups named crio-… for CRI-O's, and a kubelet that sees such a socket as its
// runtime's works around what CRI-O lacks.
package containerdview
