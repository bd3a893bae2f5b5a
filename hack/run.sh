#!/bin/bash
# run.sh: starts a berthd of its own, loads an image made on the spot, runs a pod
# and serves until Ctrl-C; BERTH_RUN_ONCE=1 ends once the pod was shown. Whatever
# happens, what it started is gone when it ends. `make run` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
  echo "make run makes namespaces, mounts and cgroups: run it as root." >&2
  exit 1
}

dir=$(mktemp -d /var/tmp/berth-run.XXXXXX)
socket=unix://$dir/run/berth.sock
bridge=berth$(printf %s "$dir/root" | sha256sum | cut -c1-8) # as server/network.go names it
forward=$(cat /proc/sys/net/ipv4/ip_forward)                 # the bridge plugin turns it on
daemon= demo=

# gone PID: waits until a process that is not our child has ended.
gone() { timeout "${2:-10}" tail --pid="$1" -f /dev/null 2>/dev/null; }

# In a session of its own: Ctrl-C must not reach the daemon, which is asked to
# remove the pod first.
start() {
  setsid bin/berthd --config /dev/null --root "$dir/root" --state "$dir/run" --listen "$socket" \
    --cni-conf-dir "$dir/net.d" --cni-bin-dir "$PWD/bin/cni" --default-network \
    --certs-dir "$dir/certs.d" --containerd-socket off >>"$dir/berthd.log" 2>&1 &
  daemon=$!
}

cleanup() {
  local code=$? shim
  trap '' INT TERM HUP PIPE # nor may a reader that left keep anything here
  set +e
  [ -z "$demo" ] || kill "$demo" 2>/dev/null
  if [ -n "$daemon" ]; then
    kill -0 "$daemon" 2>/dev/null || start # it died; another one takes the pod over
    bin/demo clean "$socket" >>"$dir/clean.log" 2>&1 || code=1
    kill -TERM "$daemon" 2>/dev/null || true
    gone "$daemon" 30 || kill -KILL "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    # A shim leaves by itself once it is empty; this is for one that could not.
    for shim in $(pgrep -f -- "^[^ ]*berth-shim .*$dir/" || true); do
      gone "$shim" || { kill -KILL "$shim" 2>/dev/null && code=1; } || true
    done
  fi
  awk -v d="$dir/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount -l || code=1
  ip link delete "$bridge" 2>/dev/null || true
  # Somebody else's bridge, made meanwhile, may need it.
  [ -n "$(ip -o link show type bridge)" ] || echo "$forward" >/proc/sys/net/ipv4/ip_forward
  if [ $code -ne 0 ]; then
    echo "Failed; the daemon's log ends:" >&2
    tail -n 30 "$dir/berthd.log" >&2 || true
    cat "$dir/clean.log" >&2 2>/dev/null || true
  fi
  rm -rf "$dir"
  exit $code
}
trap cleanup EXIT
trap 'exit 0' INT TERM HUP

mkdir -p "$dir/net.d" "$dir/certs.d" "$dir/logs"
start
bin/demo wait "$socket" &
ready=$!
wait -n "$ready" "$daemon" && kill -0 "$daemon" || {
  kill "$ready" 2>/dev/null || true
  daemon= # it did not start; there is nothing to ask it
  exit 1
}
bin/demo image "$dir/demo.tar"
bin/berth --address "$socket" image load "$dir/demo.tar" >/dev/null
# Not in the foreground, where bash would not heed a signal sent to it alone.
bin/demo run "$socket" "$dir/logs" "${BERTH_RUN_ONCE:+once}" &
demo=$!
wait "$demo"
