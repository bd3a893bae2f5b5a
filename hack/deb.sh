#!/bin/bash
# Makes bin/dist/berth_VERSION_ARCH.deb of BIN, where the programs have been built, with
# nothing but dpkg-deb. The same tree and the same programs give the same bytes.
#
# usage: hack/deb.sh VERSION [ARCH [BIN]]   (default: this machine's, and bin)
# DEB_COMPRESSION: options of dpkg-deb in place of -Zxz, which takes a minute
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 arch=${2:-$(dpkg --print-architecture)} bin=${3:-bin} go=${GO:-go}
# A pre-release sorts before its release, and a commit is no part of a Debian revision.
debian=${version/-/\~}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
put() { install -D -m "$1" "$2" "$root/$3"; }

for program in berthd berth berth-shim berth-shim-v2; do put 755 "$bin/$program" "usr/bin/$program"; done
sed 's,/usr/local/bin/,/usr/bin/,' hack/berthd.service >"$root/unit"
put 644 "$root/unit" usr/lib/systemd/system/berthd.service
# Every default as a comment: an upgrade brings new ones without a question about the file.
sed 's/^\([^#]\)/#\1/' hack/config.toml >"$root/config"
put 640 "$root/config" etc/berth/config.toml
install -d "$root/etc/berth/config.d"
# crictl gives up on a busy node after two seconds unless it is told.
printf '%s\n' 'runtime-endpoint: unix:///run/berth/berth.sock' 'image-endpoint: unix:///run/berth/berth.sock' 'timeout: 30' >"$root/crictl"
put 644 "$root/crictl" etc/crictl.yaml
put 644 hack/monitoring/alerts.yaml usr/share/berth/monitoring/alerts.yaml
put 644 hack/monitoring/dashboard.json usr/share/berth/monitoring/dashboard.json
for page in hack/docs/*.md README.md; do [ ! -f "$page" ] || put 644 "$page" "usr/share/doc/berth/$(basename "$page")"; done
"$go" run -buildvcs=false ./hack/manual bin "$root/manual"
for page in "$root"/manual/*.[58]; do
	gzip -9n "$page"
	put 644 "$page.gz" "usr/share/man/man${page##*.}/$(basename "$page").gz"
done
for program in berth berthd; do put 644 "$root/manual/$program.bash" "usr/share/bash-completion/completions/$program"; done
rm -rf "$root"/{unit,config,crictl,manual}

install -d "$root/DEBIAN"
install -m 755 -t "$root/DEBIAN" hack/deb/postinst hack/deb/prerm hack/deb/postrm
printf '%s\n' /etc/berth/config.toml /etc/crictl.yaml >"$root/DEBIAN/conffiles"
# libseccomp2 is of shims that packages before 1.0 have started and that live on.
cat >"$root/DEBIAN/control" <<END
Package: berth
Version: $debian
Architecture: $arch
Maintainer: berth developers <berth@localhost>
Section: admin
Priority: optional
Depends: libseccomp2, mount
Recommends: iptables, apparmor, containernetworking-plugins
Installed-Size: $(du -sk "$root" | cut -f1)
Description: Kubernetes container runtime (CRI)
 berthd serves the kubelet: it pulls images, attaches pods to CNI networks and runs
 containers in small shims that outlive it.
END
(cd "$root" && find usr etc -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p bin/dist
# shellcheck disable=SC2086 # options
dpkg-deb --root-owner-group ${DEB_COMPRESSION:--Zxz} --build "$root" "bin/dist/berth_${debian}_$arch.deb" >/dev/null
echo "bin/dist/berth_${debian}_$arch.deb"
