#!/bin/bash
# Makes bin/dist/berth_VERSION_linux_ARCH.tar.gz of BIN, where the programs have been
# built, its list of modules (SPDX) and SHA256SUMS. The same tree and the same programs give
# the same bytes. The manual is made of the programs in bin, which this machine can run.
#
# usage: hack/release.sh VERSION [ARCH [BIN]]   (default: this machine's, and bin)
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 go=${GO:-go}
arch=${2:-$("$go" env GOARCH)} bin=${3:-bin}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
umask 022
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
name=berth-$version
install -D -m 755 -t "$stage/$name/bin" "$bin/berthd" "$bin/berth" "$bin/berth-shim" "$bin/berth-shim-v2"
install -D -m 644 hack/berthd.service "$stage/$name/lib/systemd/system/berthd.service"
install -D -m 644 hack/config.toml "$stage/$name/etc/berth/config.toml"
install -D -m 644 -t "$stage/$name/share/berth/monitoring" hack/monitoring/alerts.yaml hack/monitoring/dashboard.json
install -D -m 644 README.md "$stage/$name/share/doc/berth/README.md"
for page in hack/docs/*.md; do [ ! -f "$page" ] || install -m 644 -t "$stage/$name/share/doc/berth" "$page"; done
"$go" run -buildvcs=false ./hack/manual bin "$stage/$name/share/manual"
mkdir -p bin/dist
archive=berth_${version}_linux_$arch.tar.gz
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu -C "$stage" -cf - "$name" |
	gzip -9n >"bin/dist/$archive"
sbom=berth_${version}_linux_$arch.spdx.json
"$go" run -buildvcs=false ./hack/sbom "$version" "$bin/berthd" "$bin/berth" "$bin/berth-shim" "$bin/berth-shim-v2" >"bin/dist/$sbom"
(cd bin/dist && sha256sum "$archive" "$sbom" >"SHA256SUMS_${version}_linux_$arch")
printf 'bin/dist/%s\n' "$archive" "$sbom" "SHA256SUMS_${version}_linux_$arch"
