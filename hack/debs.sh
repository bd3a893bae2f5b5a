#!/bin/bash
# debs.sh SUITE DIR ARCH,… alone|all PACKAGE…: unpacks packages of Debian into the directory
# DIR, alone or with all that they depend on. They are fetched by apt, with lists and caches
# of its own, and no script of theirs is run: nothing is installed. DIR is there only when
# it is complete. DEBIAN_MIRROR in the environment is another mirror than deb.debian.org.
set -euo pipefail
suite=$1 dir=$2 archs=$3 how=$4
shift 4
keys=/usr/share/keyrings/debian-archive-keyring.gpg half=$dir.half
[ -e "$keys" ] || {
  echo "debs.sh: Debian's keys are missing: install debian-archive-keyring" >&2
  exit 1
}
rm -rf "$half"
mkdir -p "$half"/apt/{state/lists/partial,cache/archives/partial}
half=$(realpath "$half")
: >"$half/apt/status"
echo "deb [signed-by=$keys] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} $suite main" >"$half/apt/sources.list"
apt=(apt-get -qq -o "Dir::State=$half/apt/state" -o "Dir::State::status=$half/apt/status" -o "Dir::Cache=$half/apt/cache"
  -o "Dir::Etc::sourcelist=$half/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o "APT::Architecture=${archs%%,*}" -o APT::Sandbox::User=root)
for arch in ${archs//,/ }; do apt+=(-o "APT::Architectures::=$arch"); done
"${apt[@]}" update
case $how in
alone) (cd "$half/apt/cache/archives" && "${apt[@]}" download "$@") ;;
all) "${apt[@]}" --yes --no-install-recommends --download-only install "$@" ;;
esac
for deb in "$half"/apt/cache/archives/*.deb; do dpkg-deb -x "$deb" "$half"; done
rm -rf "$half/apt"
mv "$half" "$dir"
