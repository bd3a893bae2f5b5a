#!/bin/bash
# shims.sh: builds shims of containerd and their runtimes from the module proxy into
# bin/shims, for the tests of runtime classes: containerd-shim-runc-v2 with runc, and with
# the argument gvisor also containerd-shim-runsc-v1 with runsc. With the argument peers it
# also builds containerd, into bin/peers and with the two beside it, for the bench. Go's
# checksum database is what ties each version to its content. `make shims` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
containerd=v2.4.2 runc=v1.5.2
# Of the branch "go", which has the generated code.
gvisor=v0.0.0-20260905035102-160fafc42237

mkdir -p bin/shims
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT

# source MODULE VERSION: a copy of a module, built by its own go.mod and go.sum.
source_of() {
  local from
  from=$("$go" mod download -json "$1@$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  cp -R "$from" "$dir/$3"
  chmod -R u+w "$dir/$3"
}

# build NAME PACKAGE OUTPUT FLAGS...
build() {
  local name=$1 package=$2 out=$PWD/bin/shims/$3
  shift 3
  "$go" -C "$dir/$name" build -mod=mod -buildvcs=false -trimpath -o "$out" "$@" "$package"
}

if [ ! -x bin/shims/containerd-shim-runc-v2 ]; then
  source_of github.com/containerd/containerd/v2 $containerd containerd
  CGO_ENABLED=0 build containerd ./cmd/containerd-shim-runc-v2 containerd-shim-runc-v2 -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd"
fi
if [ ! -x bin/shims/runc ]; then
  source_of github.com/opencontainers/runc $runc runc
  CGO_ENABLED=1 build runc . runc -tags seccomp,runc_nocriu -ldflags "-s -w -X main.version=${runc#v}"
fi
if [ "${1:-}" = gvisor ] && [ ! -x bin/shims/runsc ]; then
  source_of gvisor.dev/gvisor $gvisor gvisor
  CGO_ENABLED=0 build gvisor ./shim containerd-shim-runsc-v1 -ldflags "-s -w"
  CGO_ENABLED=0 build gvisor ./runsc runsc -ldflags "-s -w"
fi
if [ "${1:-}" = peers ] && [ ! -x bin/peers/containerd ]; then
  mkdir -p bin/peers
  cp bin/shims/containerd-shim-runc-v2 bin/shims/runc bin/peers/
  [ -d "$dir/containerd" ] || source_of github.com/containerd/containerd/v2 $containerd containerd
  CGO_ENABLED=0 build containerd ./cmd/containerd ../peers/containerd -tags no_btrfs,no_zfs,no_devmapper \
    -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd"
fi
