#!/bin/bash
# fresh.sh [--net] [--bind DIR]… TREE COMMAND [ARG…]: runs a command as on a machine of its
# own, whose files are those of the directory TREE, which may be /: what it writes there is
# gone afterwards. Its processes, mounts, IPC and, without --net, its network are its own,
# and end with it. DIR is the host's, writable, at the same place. It runs in the working
# directory that it was called in, where the tree has that.
set -euo pipefail
namespaces=(--mount --net --pid --ipc --uts) binds=()
while :; do
  case ${1-} in
  --net) namespaces=(--mount --pid --ipc --uts) && shift ;;
  --bind) binds+=("$(realpath "$2")") && shift 2 ;;
  *) break ;;
  esac
done
[ $# -ge 2 ] || {
  echo "usage: fresh.sh [--net] [--bind DIR]… TREE COMMAND [ARG…]" >&2
  exit 2
}
[ "$(id -u)" = 0 ] || {
  echo "fresh.sh: namespaces and mounts are for root" >&2
  exit 1
}
FRESH_TREE=$(realpath "$1") FRESH_BINDS=$(printf '%s\n' ${binds[@]+"${binds[@]}"}) FRESH_DIR=$PWD
export FRESH_TREE FRESH_BINDS FRESH_DIR
shift
# What is below /mnt is not seen by others. A private /run and /var/lib/berth are on memory:
# an overlay can't be the upper directory of another.
# shellcheck disable=SC2016 # the inner shell's
exec unshare "${namespaces[@]}" --fork --kill-child --propagation private bash -c '
  set -e
  mount -t tmpfs -o size=75%,nr_inodes=0 fresh /mnt
  mkdir /mnt/upper /mnt/work /mnt/root
  mount -t overlay -o "lowerdir=$FRESH_TREE,upperdir=/mnt/upper,workdir=/mnt/work" fresh /mnt/root
  cd /mnt/root
  mkdir -p proc sys dev run tmp var/tmp var/lib/berth var/lib/kubelet mnt
  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mount --rbind /sys/fs/cgroup sys/fs/cgroup
  mount --rbind /dev dev
  for d in run tmp var/tmp var/lib/berth var/lib/kubelet; do mount -t tmpfs -o mode=755,nr_inodes=0 fresh $d; done
  chmod 1777 tmp var/tmp
  mkdir run/lock
  while read -r d; do
    [ -z "$d" ] || { mkdir -p ".$d" && mount --rbind "$d" ".$d"; }
  done <<<"$FRESH_BINDS"
  cat /etc/resolv.conf >etc/resolv.conf 2>/dev/null || true
  pivot_root . mnt
  umount -l /mnt
  mount --make-rshared /
  cd "$FRESH_DIR" 2>/dev/null || cd /
  ip link set lo up 2>/dev/null || true
  unset FRESH_TREE FRESH_BINDS FRESH_DIR
  # Not by exec: the first process collects those whose parents are gone.
  code=0
  "$@" || code=$?
  exit $code' fresh "$@"
