#!/bin/bash
# deps.sh GROUP...: installs what is missing on Debian or Ubuntu and is silent
# when nothing is. Groups: go (only looked at), build, run,
# test, vm, arm64.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # a user may look from there, too

check_go() {
  local go=${GO:-go} want have path fetch
  want=$(awk '$1 == "go" { print $2; exit }' go.mod)
  if ! path=$(command -v "$go"); then
    echo "Go is missing: install Go ${want%.*} or later from https://go.dev/dl/ into /usr/local/go (distributions' packages are older)." >&2
    exit 1
  fi
  # Outside the module, so that go tells its own version and fetches no other.
  have=$(cd / && GOTOOLCHAIN=local GOWORK=off "$go" env GOVERSION)
  have=${have#go}
  [ "$(printf '%s\n' "$want" "${have%% *}" | sort -V | head -1)" != "$want" ] || return 0
  case $(cd / && GOWORK=off "$go" env GOTOOLCHAIN) in
  '') fetch= ;; # older than 1.21 it knows of no other toolchains
  local) fetch=", or let go fetch it with GOTOOLCHAIN=auto" ;;
  *) return 0 ;;
  esac
  echo "$path is Go $have, too old: install Go ${want%.*} or later from https://go.dev/dl/ and put it first in PATH$fetch." >&2
  exit 1
}

# want COMMAND-OR-FILE PACKAGE: notes PACKAGE when COMMAND or FILE is not there.
missing=()
want() {
  case $1 in
  /*) compgen -G "$1" >/dev/null || missing+=("$2") ;;
  *) command -v "$1" >/dev/null || missing+=("$2") ;;
  esac
}

for group in "$@"; do
  case $group in
  go) check_go ;;
  build)
    want gcc gcc
    want '/usr/include/stdio.h' libc6-dev
    want '/usr/include/seccomp.h' libseccomp-dev
    want pkg-config pkg-config
    ;;
  run)
    if [ "$(id -u)" != 0 ]; then
      echo "Pods need namespaces, mounts and cgroups: run this as root." >&2
      exit 1
    fi
    want iptables iptables
    want ip iproute2
    want mount mount
    want pgrep procps
    { busybox=$(command -v busybox) && ! ldd "$busybox" >/dev/null 2>&1; } || missing+=(busybox-static)
    ;;
  test)
    want mkfs.ext4 e2fsprogs
    want mkfs.xfs xfsprogs
    ;;
  vm)
    want debootstrap debootstrap
    want mke2fs e2fsprogs
    want debugfs e2fsprogs
    ;;
  arm64)
    want /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
    want mount mount
    ;;
  *)
    echo "deps.sh: no group $group" >&2
    exit 2
    ;;
  esac
done

[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  if command -v dnf >/dev/null; then
    names=() # as Fedora calls them
    for package in "${missing[@]}"; do
      case $package in
      libc6-dev) names+=(glibc-devel glibc-static) ;;
      libseccomp-dev) names+=(libseccomp-devel libseccomp-static) ;;
      pkg-config) names+=(pkgconf-pkg-config) ;;
      iproute2) names+=(iproute) ;;
      mount) names+=(util-linux) ;;
      procps) names+=(procps-ng) ;;
      busybox-static) names+=(busybox) ;;
      *) names+=("$package") ;;
      esac
    done
    echo "Missing: ${missing[*]} (Debian's names). Run as root: dnf install ${names[*]}" >&2
  else
    echo "Missing: ${missing[*]} (Debian's names). Install them with this system's package manager." >&2
  fi
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "Missing: ${missing[*]}. Run as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A list of packages that is there may do; one that is not, or is old, is fetched.
# That some lists could not be is an error only when a package is missing then.
install() { apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$log" 2>&1; }
install || { : >"$log" && apt-get update -qq >>"$log" 2>&1 || true; install; } || {
  tail -n 15 "$log" >&2
  echo "apt-get could not install ${missing[*]}; is there a network?" >&2
  exit 1
}
