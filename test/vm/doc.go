// Command vm boots Debian 13 with systemd, cgroup v2, AppArmor and every capability
// under QEMU, runs berth's tests in it, and brings back what came of each.
//
//	make test-vm                                    integration, scenarios, attack and critest
//	make test-vm SUITES="crash packages"            others, see below
//	make test-vm SUITES=integration RUN=Reload      the functions whose names match
//	make test-vm SUITES=node NODE=DIR RUN='\[NodeConformance\].*Pods'
//	make test-vm SUITES=bench PEER=DIR              beside the containerd and runc in DIR
//	make test-vm SUITES=selinux                     on an enforcing kernel
//	make test-vm SUITES=deb NODE=DIR                the life of the Debian package
//	make test-vm SUITES=reboot                      pods on both sides of a restart
//
// The suites: integration (without the next two), scenarios (TestS01… of it), attack (all
// that test/attack finds), packages (all tests of the packages that have attacks), crash,
// critest, node (Kubernetes' node tests against berthd as a systemd service; NODE has
// bin/e2e_node.test, bin/kubelet, and img/{root,bb,nn,dp,kitten}.tar, its test images), bench, deb
// (the package installed, upgraded below running pods, reloaded, downgraded, removed and
// purged by the commands of hack/docs, with a kubelet where NODE has bin/kubelet; its log is
// the transcript; it is the last suite of a run), reboot (test/reboot; it is run alone, as the
// machine forgets the other suites), and selinux, which is run alone, as it
// boots with SELinux instead of AppArmor; what the kernel
// denied is in its denied.log, and VMFLAGS=-permissive has it only log that.
// RUN chooses functions, or specs of critest and of node, there also serial ones. In an
// emulated guest a spec of node takes a minute, and many minutes where it runs commands in
// containers of a few millicores, as those of resizing do. VMFLAGS="-procs 3" runs three at
// once, except serial ones, and wants ginkgo's program as NODE/bin/ginkgo. VMFLAGS=-cgroupfs
// is for specs that look for a container's cgroup (MemoryQoS, CPU Manager): of systemd's scopes
// they know the names that other runtimes give.
//
// # What it owns
//
// The tree of the guest, its disk, one virtual machine at a time, and the bundle of
// compiled tests and programs that goes into it: nothing is built in the guest. The same
// program is the guest's service that runs the suites.
//
// # Invariants
//
//   - Nothing outlives a run, however it ends: all of it happens in a mount and a PID
//     namespace of its own, which the kernel ends with the first process.
//   - Each result reaches the host when it is there, by a port of the machine, so a run
//     that is out of time still tells what it got to. What did not end did not pass.
//   - Guests do not change the cached disk: each run writes to a snapshot of it.
//
// # Files
//
//	bin/vm/tree          Debian 13 with QEMU, made by debootstrap; remove it to make it anew
//	bin/vm/recipe        of which packages and files: another makes the tree anew
//	bin/vm/disk.img      the guest's disk, made of the tree
//	bin/vm/share.img     what goes in and out: the bundle, the plan, out/
//	bin/vm/lock          held by the run that uses them
//	bin/vm/out           of the last run: result.json, console.log, and a log per suite
//
// # Why not the QEMU of the host
//
// QEMU 7.2, of Debian 12, corrupts guests when it emulates; 10.0 of Debian 13 does not.
// With the one in the tree, every host runs the same.
package main
