#!/bin/bash
# cross.sh ARCH: builds the programs for another architecture than this machine's into
# bin/linux_ARCH. The C compiler, its libraries and libseccomp are Debian 12's, so that the
# shim runs with the C library of Debian 12 and later; their packages are fetched by apt,
# with lists and caches of its own, and unpacked into bin/cross/ARCH: nothing is installed.
#
# The environment has VERSION, GO and DEBIAN_MIRROR (another than deb.debian.org).
set -euo pipefail
cd "$(dirname "$0")/.."
arch=$1 go=${GO:-go} version=${VERSION:-$(hack/version.sh)}
case $arch in
arm64) triple=aarch64-linux-gnu ;;
*)
  echo "cross.sh: no cross compiler is known for $arch" >&2
  exit 2
  ;;
esac
host=$(dpkg --print-architecture)
[ "$host" = amd64 ] || {
  echo "cross.sh: $arch is built on amd64; this is $host" >&2
  exit 1
}
root=$PWD/bin/cross/$arch keys=/usr/share/keyrings/debian-archive-keyring.gpg gcc=12
packages=(
  "gcc-$gcc-$triple" "cpp-$gcc-$triple" "binutils-$triple" "libgcc-$gcc-dev-$arch-cross" "libgcc-s1-$arch-cross"
  "libc6-$arch-cross" "libc6-dev-$arch-cross" "linux-libc-dev-$arch-cross"
  libisl23 libmpc3 libmpfr6 libgmp10 # of the compiler
  "libseccomp2:$arch" "libseccomp-dev:$arch"
)

# fetch makes the tree once.
fetch() {
  local half=$root.half
  rm -rf "$half"
  mkdir -p "$half"/apt/{state/lists/partial,cache/archives/partial,debs}
  : >"$half/apt/status"
  echo "deb [signed-by=$keys] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} bookworm main" >"$half/apt/sources.list"
  local apt=(apt-get -qq -o "Dir::State=$half/apt/state" -o "Dir::State::status=$half/apt/status" -o "Dir::Cache=$half/apt/cache"
    -o "Dir::Etc::sourcelist=$half/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o "APT::Architecture=$host" -o "APT::Architectures::=$host" -o "APT::Architectures::=$arch" -o APT::Sandbox::User=root)
  echo "Fetching a C compiler for $arch"
  "${apt[@]}" update
  (cd "$half/apt/debs" && "${apt[@]}" download "${packages[@]}")
  for deb in "$half"/apt/debs/*.deb; do dpkg-deb -x "$deb" "$half"; done
  # A compiler that finds its own parts beside it, and these their libraries.
  mkdir "$half/bin"
  for tool in gcc ar; do
    local name=$triple-$tool sysroot=
    [ $tool != gcc ] || name=$triple-gcc-$gcc sysroot='--sysroot="$root" -B"$root/usr/bin/'$triple'-"'
    cat >"$half/bin/$triple-$tool" <<END
#!/bin/sh
root=$root
export LD_LIBRARY_PATH="\$root/usr/lib/x86_64-linux-gnu"
exec "\$root/usr/bin/$name" $sysroot "\$@"
END
    chmod 755 "$half/bin/$triple-$tool"
  done
  rm -rf "$half/apt"
  mv "$half" "$root"
}
[ -e "$keys" ] || {
  echo "cross.sh: Debian's keys are missing: install debian-archive-keyring" >&2
  exit 1
}
[ -d "$root" ] || fetch

out=bin/linux_$arch
mkdir -p "$out"
export GOARCH=$arch CC=$root/bin/$triple-gcc AR=$root/bin/$triple-ar
export PKG_CONFIG_LIBDIR=$root/usr/lib/$triple/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
hack/build-static.sh "$arch"
build=("$go" build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$version" -o "$out/")
set -x
CGO_ENABLED=0 "${build[@]}" -tags nri_no_wasm ./cmd/berthd ./cmd/berth
CGO_ENABLED=1 "${build[@]}" -tags seccomp,runc_nocriu ./cmd/berth-shim ./cmd/berth-shim-v2
