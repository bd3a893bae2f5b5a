// Package oci builds the runtime-spec of a container.
//
// # What it owns
//
// [Plan] turns a CRI configuration, an image's configuration and the host's facts into a
// [Draft] of a runtime-spec, and checks all that was asked for. [Draft.Complete] adds what
// only a look at the host can tell. Both are pure functions. The functions that look
// stand apart: [DetectHost], [ResolveUser], [ResolveDevices], [ResolveNode], [LoadSeccomp],
// [ResolveMounts], which also makes the missing directory of a hostPath volume,
// [CheckAppArmor], [CheckLabels], and [LoadAppArmorDefault], which runs apparmor_parser
// once. Package oci/shims hands the result to a shim, which starts the container.
//
// What is where: spec.go puts the parts together; spec_process.go, spec_mounts.go,
// spec_namespaces.go, spec_files.go, spec_env.go, resources.go, devices.go, seccomp.go,
// apparmor.go and selinux.go each build one of them and check what was asked of it; pod_security.go is
// the same for a pod's pause. scope.go and signal.go decide what is no part of a spec: how
// systemd stops a container, and by what signal. mounts.go (the sources of mounts),
// accounts.go, user.go, regular.go and host.go read the host; capabilities.go and
// apparmor_profile.go hold tables and texts; errors.go the two kinds of errors.
//
// The annotations that berth obeys are constants named …Annotation, each beside the code
// that reads it: CDI's in devices.go, [GraceAnnotation] here, InitAnnotation,
// ShmAnnotation and DevicesAnnotation in package sandbox, the bandwidth of a pod in package cni.
//
// # Invariants
//
// The package needs no cgo. The results of [Plan] and [Draft.Complete] depend on their
// arguments alone, so golden files test them without root.
//
// What a spec can't be made of is refused here and nowhere else: [Plan] for containers,
// [NamespacesOf], [PodSecurityOf] and [CgroupsPath] for pods, [CheckResources] and
// [UpdateResources] for updates. The errors match [ErrInvalid] or [ErrUnsupported].
//
// # Why not X
//
// Why not libcontainer's or containerd's generators: both read the host while they
// build, so that their result can only be tested on a machine set up for it.
package oci
