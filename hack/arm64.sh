#!/bin/bash
# arm64.sh: runs a pod of the programs that `make cross` built for arm64, on an emulated
# arm64 machine: hack/arm64/init.sh is what happens there. Its console is printed, and kept
# in bin/arm64/console.log; that a pod ran there is the exit code.
#
# QEMU 7.2, of Debian 12, corrupts guests when it emulates; so QEMU is Debian 13's, unpacked
# into bin/arm64/qemu, as the guest's kernel and programs are into bin/arm64/debian, once.
# Remove these to fetch them anew. The machine is ended after LIMIT seconds, 900 by default.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
  echo "arm64.sh runs QEMU in namespaces and a tree of its own: run it as root." >&2
  exit 1
}
[ -x bin/linux_arm64/berth-shim-v2 ] || {
  echo "arm64.sh: bin/linux_arm64 has no programs: run make cross, on amd64" >&2
  exit 1
}
dir=$PWD/bin/arm64 go=${GO:-go} limit=${LIMIT:-900}
mkdir -p "$dir"
exec 9>"$dir/lock" # held by all that is started here, until it has ended
flock -n 9 || {
  echo "arm64.sh: another run uses $dir" >&2
  exit 1
}
# Of the tree that QEMU runs in, and what packs the guest's files there.
host=(base-files coreutils dash findutils mount kmod xz-utils cpio qemu-system-arm)
guest=(base-files linux-image-arm64 kmod busybox-static iptables)

# unpacked NAME ARCH PACKAGE…: makes bin/arm64/NAME once of these packages.
unpacked() {
  local tree=$dir/$1 list="${*:2}"
  [ ! -d "$tree" ] || [ "$(cat "$tree.packages" 2>/dev/null)" != "$list" ] || return 0
  rm -rf "$tree" "$tree.packages"
  echo "Fetching Debian 13's ${*:3}"
  hack/debs.sh trixie "$tree" "$2" all "${@:3}"
  echo "$list" >"$tree.packages"
}
unpacked qemu amd64 "${host[@]}"
unpacked debian arm64 "${guest[@]}"

# Beside berth's programs: the plugins of the pod's network, and who asks for the pod.
build=(build -buildvcs=false -trimpath -ldflags "-s -w")
GOARCH=arm64 CGO_ENABLED=0 "$go" "${build[@]}" -o "$dir/programs/" ./hack/demo
GOARCH=arm64 CGO_ENABLED=0 "$go" -C hack/tools "${build[@]}" -o "$dir/programs/cni/" tool

# The guest's files: of the kernel's modules those that pods may need.
root=$dir/root
rm -rf "$root" "$dir/initrd" "$dir/console.log"
mkdir -p "$root"/{mnt,root,opt/cni/bin,usr/local/bin,etc/berth/config.d}
modules=("$dir"/debian/usr/lib/modules/*/kernel)
kernel=$(basename "$(dirname "${modules[0]}")")
unneeded=(./boot ./usr/share "./usr/lib/modules/*" "./usr/lib/linux-image-*" ./usr/lib/udev "*/systemd" "*/gconv")
tar -C "$dir/debian" -cf - "${unneeded[@]/#/--exclude=}" . | tar -C "$root" -xf -
mkdir -p "$root/usr/lib/modules/$kernel"
(cd "$dir/debian/usr/lib/modules/$kernel" && cp -a --parents modules.{order,builtin,builtin.modinfo} \
  kernel/{crypto,lib,net/{802,bridge,core,ipv4,ipv6,llc,netfilter,netlink,sched,xfrm},fs/overlayfs,drivers/net/veth.ko*} "$root/usr/lib/modules/$kernel/")
for p in iptables ip6tables; do # which the package's script would make
  for suffix in "" -save -restore; do ln -s xtables-nft-multi "$root/usr/sbin/$p$suffix"; done
done
install -t "$root/usr/local/bin" bin/linux_arm64/{berthd,berth,berth-shim} "$dir"/programs/demo
install -t "$root/opt/cni/bin" "$dir"/programs/cni/*
install -m 755 hack/arm64/init.sh "$root/init"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
echo 'nameserver 192.0.2.53' >"$root/etc/resolv.conf" # of documentation: there is no network
printf 'default_network = true\ncni_bin_dir = ["/opt/cni/bin"]\n' >"$root/etc/berth/config.d/10-arm64.toml"

# On a machine of its own, without a network; what it starts ends with it, and it with this.
# It must be called in a child of this shell, which it replaces.
apart() {
  local fresh=$PWD/hack/fresh.sh
  cd "$dir"
  exec setpriv --pdeathsig KILL "$fresh" --bind "$dir" "$dir/qemu" "$@"
}
(apart sh -euc 'cd root
  find usr/lib/modules -name "*.ko.xz" -exec unxz {} +
  depmod -b . "$1"
  find . | cpio -o -H newc -R 0:0 --quiet >../initrd' sh "$kernel")
rm -rf "$root"
# AppArmor is left out, whose compiler would need minutes; its rules know no architecture.
append="console=ttyAMA0 panic=-1 quiet nokaslr mitigations=off apparmor=0"
echo "The machine boots; it is ended after $limit s"
apart timeout --kill-after=5 "$limit" qemu-system-aarch64 -M virt -cpu cortex-a76 -accel tcg,thread=multi -smp 2 -m 1536 \
  -kernel "debian/boot/vmlinuz-$kernel" -initrd initrd -append "$append" \
  -display none -monitor none -nic none -no-reboot -chardev stdio,id=console,signal=off -serial chardev:console \
  </dev/null | sed -u 's/\r$//' | tee "$dir/console.log" || echo "arm64.sh: QEMU was ended" >&2
grep -q '^verdict: a pod ran on aarch64' "$dir/console.log" || {
  echo "arm64.sh: no pod ran on arm64" >&2
  exit 1
}
