#!/bin/sh
# Builds the pause program of the pods for one architecture into
# oci/shim/pause/pause_$GOARCH.bin, which the shim embeds.
#
# usage: hack/build-pause.sh [GOARCH]   (default: that of the Go environment)
# CC: the C compiler; for another architecture its cross compiler.
set -eu

cd "$(dirname "$0")/../oci/shim/pause"
arch=${1:-$(go env GOARCH)}
own=
case "$arch:$(uname -m)" in
	amd64:x86_64) cc=${CC:-cc} own=-fcf-protection=none ;;
	arm64:aarch64) cc=${CC:-cc} ;;
	amd64:*) cc=${CC:-x86_64-linux-gnu-gcc} own=-fcf-protection=none ;;
	arm64:*) cc=${CC:-aarch64-linux-gnu-gcc} ;;
	*)
		echo "build-pause: architecture $arch has no system call in pause.c yet" >&2
		exit 1
		;;
esac

# Few pages is what matters, since every pod pays them: one segment for text and
# constants, nothing aligned to a page of its own, no notes, no unwind tables.
# shellcheck disable=SC2086 # $own may be empty
"$cc" -Os -std=gnu11 -Wall -Wextra -Werror \
	-ffreestanding -nostdlib -static -no-pie -fno-pie \
	-fno-stack-protector -fno-asynchronous-unwind-tables -ffunction-sections $own \
	-Wl,--gc-sections,-e,_start,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack,-s \
	-o "pause_$arch.bin.tmp" pause.c
chmod 0644 "pause_$arch.bin.tmp"
mv "pause_$arch.bin.tmp" "pause_$arch.bin"
