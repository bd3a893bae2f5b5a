#!/bin/bash
# cross.sh ARCH: builds the programs for another architecture than this machine's into
# bin/linux_ARCH. The C compiler, its libraries and libseccomp are Debian 12's, so that the
# shim runs with the C library of Debian 12 and later; their packages are unpacked into
# bin/cross/ARCH (debs.sh): nothing is installed.
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
root=$PWD/bin/cross/$arch gcc=12
packages=(
  "gcc-$gcc-$triple" "cpp-$gcc-$triple" "binutils-$triple" "libgcc-$gcc-dev-$arch-cross" "libgcc-s1-$arch-cross"
  "libc6-$arch-cross" "libc6-dev-$arch-cross" "linux-libc-dev-$arch-cross"
  libisl23 libmpc3 libmpfr6 libgmp10 # of the compiler
  "libseccomp2:$arch" "libseccomp-dev:$arch"
)

# fetch makes the tree once.
fetch() {
  local made=$root.made
  rm -rf "$made"
  echo "Fetching a C compiler for $arch"
  hack/debs.sh bookworm "$made" "$host,$arch" alone "${packages[@]}"
  # A compiler that finds its own parts beside it, and these their libraries.
  mkdir "$made/bin"
  for tool in gcc ar; do
    local name=$triple-$tool sysroot=
    [ $tool != gcc ] || name=$triple-gcc-$gcc sysroot='--sysroot="$root" -B"$root/usr/bin/'$triple'-"'
    cat >"$made/bin/$triple-$tool" <<END
#!/bin/sh
root=$root
export LD_LIBRARY_PATH="\$root/usr/lib/x86_64-linux-gnu"
exec "\$root/usr/bin/$name" $sysroot "\$@"
END
    chmod 755 "$made/bin/$triple-$tool"
  done
  mv "$made" "$root"
}
[ -d "$root" ] || fetch

out=bin/linux_$arch
mkdir -p "$out"
export GOARCH=$arch CC=$root/bin/$triple-gcc AR=$root/bin/$triple-ar
export PKG_CONFIG_LIBDIR=$root/usr/lib/$triple/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
hack/build-static.sh "$arch"
flags="-s -w -X main.version=$version"
build=("$go" build -buildvcs=false -trimpath -o "$out/")
set -x
CGO_ENABLED=0 "${build[@]}" -ldflags "$flags" -tags nri_no_wasm ./cmd/berthd ./cmd/berth
CGO_ENABLED=1 "${build[@]}" -ldflags "$flags -linkmode external -extldflags -static" -tags seccomp,runc_nocriu,osusergo,netgo \
  ./cmd/berth-shim ./cmd/berth-shim-v2
