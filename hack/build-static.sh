#!/bin/sh
# Builds the two programs without libc for one architecture: pause of the pods,
# which the shim embeds, and the init of containers, which berthd embeds.
#
# usage: hack/build-static.sh [GOARCH]   (default: that of the Go environment)
# CC: the C compiler; for another architecture its cross compiler.
set -eu

cd "$(dirname "$0")/.."
arch=${1:-$(go env GOARCH)}
own=
case "$arch:$(uname -m)" in
	amd64:x86_64) cc=${CC:-cc} own=-fcf-protection=none ;;
	arm64:aarch64) cc=${CC:-cc} ;;
	amd64:*) cc=${CC:-x86_64-linux-gnu-gcc} own=-fcf-protection=none ;;
	arm64:*) cc=${CC:-aarch64-linux-gnu-gcc} ;;
	*)
		echo "build-static: architecture $arch has no system call in oci/shim/pause/start.h yet" >&2
		exit 1
		;;
esac

# Few pages is what matters, since every pod pays them: one segment for text and
# constants, nothing aligned to a page of its own, no notes, no unwind tables.
build() {
	# shellcheck disable=SC2086 # $own may be empty
	"$cc" -Os -std=gnu11 -Wall -Wextra -Werror \
		-ffreestanding -nostdlib -static -no-pie -fno-pie \
		-fno-stack-protector -fno-asynchronous-unwind-tables -ffunction-sections $own \
		-Wl,--gc-sections,-e,_start,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack,-s \
		-o "$1_$arch.bin.tmp" "$1.c"
	chmod 0644 "$1_$arch.bin.tmp"
	mv "$1_$arch.bin.tmp" "$1_$arch.bin"
}

build oci/shim/pause/pause
build oci/tinyinit/init
