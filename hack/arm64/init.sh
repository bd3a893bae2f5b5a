#!/usr/bin/busybox sh
# init.sh: the first process of the emulated arm64 machine of hack/arm64.sh. It makes a
# node of it, runs berthd and a pod, does to them what an operator does, and fails at the
# first thing that is not as it should be. The machine ends with it; the last line that it
# prints, `verdict`, is what the host looks for.
set -euo pipefail
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/usr/local/applets HOME=/root BERTH_TEST_PATIENCE=10m

# The kernel starts it in the root file system of the boot, which pivot_root(2) can't
# replace; so it copies that to a file system and starts there again.
if [ "${1-}" != again ]; then
  /usr/bin/busybox mount -t tmpfs -o mode=755,size=75%,nr_inodes=0 root /mnt
  cd /
  for f in bin etc init lib opt root sbin usr; do /usr/bin/busybox cp -a "$f" /mnt/; done
  exec /usr/bin/busybox switch_root /mnt /init again
fi

socket=unix:///run/berth/berth.sock log=/var/log/berthd.log daemon=
say() { printf '\n# %s\n' "$*" && "$@"; }
fail() { echo "init.sh: $*" && exit 1; }

end() {
  code=$?
  trap - EXIT
  set +e
  if [ $code -eq 0 ]; then
    echo "verdict: a pod ran on $(uname -m), was taken over and left nothing"
  else
    printf '\nFailed; the daemon says at last:\n'
    tail -n 40 $log
    dmesg | tail -n 20
  fi
  stty -echo </dev/console # once all is written
  poweroff -f
}
trap end EXIT

# within SECONDS COMMAND…: repeats a command until it succeeds, for what no event tells.
within() {
  left=$1
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || fail "it did not come: $*"
    sleep 1
  done
}

machine() {
  mkdir -p /dev /proc /sys /run /tmp /var/log/pods /usr/local/applets
  ln -s /run /var/run
  /usr/bin/busybox mount -t devtmpfs dev /dev
  /usr/bin/busybox --install -s /usr/local/applets
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
  mkdir -p /dev/pts /dev/shm
  mount -t devpts devpts /dev/pts
  for d in /dev/shm /tmp; do mount -t tmpfs tmpfs $d; done
  mount -t tmpfs -o mode=755 tmpfs /run
  mount --make-rshared /
  hostname emulated
  ip link set lo up
  for m in overlay bridge veth; do modprobe $m; done
}

# serves: the daemon answers, or has ended.
serves() { demo wait $socket || ! kill -0 $daemon; }

start() {
  berthd </dev/null >>$log 2>&1 &
  daemon=$!
  within 300 serves
  kill -0 $daemon || fail "berthd ended"
}

# runs: the container is the process that it was, and commands run in it, below a filter of
# system calls, whose numbers differ with the architecture.
runs() {
  pid=$(pidof httpd) || fail "the container's process is gone"
  [ "$pid" = "${was:=$pid}" ] || fail "process $was is now process $pid"
  printf '\n# in the container of process %s\n' "$pid"
  demo exec $socket sh -c 'uname -m; grep ^Seccomp: /proc/self/status' | tee /tmp/said
  for line in aarch64 'Seccomp:.*2'; do
    grep -qx "$line" /tmp/said || fail "the container does not say $line"
  done
}

pod() {
  say berth image load /root/demo.tar
  say demo run $socket /var/log/pods once | tee /tmp/said
  grep -q '^log .*Hello, I am process [0-9]* of hello on Linux' /tmp/said || fail "the log has something else"
  grep -q '^answer .*: hello from a pod$' /tmp/said || fail "the pod does not answer at its address"
  pod=$(sed -n 's/^pod  *\([0-9a-f]*\),.*/\1/p' /tmp/said)
  runs
}

looks() {
  say berth check
  say berth explain "$pod"
  say berth audit
  say berth version
}

# nothing: what pods have is gone; what the daemon itself has may stay.
nothing() {
  printf '\n# what is left\n'
  within 300 sh -c '! pidof berth-shim'
  berth check --leaks
  ls /var/lib/berth/pods /sys/class/net /sys/class/net/berth0/brif
  [ -z "$(ls /var/lib/berth/pods /sys/class/net/berth0/brif -A | grep -v :)" ] || fail "a pod is left"
  ! grep -E ' /(run|var/lib)/berth/' /proc/mounts || fail "a mount is left"
}

machine
uname -a
say berthd --version
say demo image /root/demo.tar
start
pod
looks
say kill -KILL $daemon
wait $daemon || true
start
runs
say demo clean $socket
say kill -TERM $daemon
wait $daemon || fail "berthd ended with $?"
nothing
