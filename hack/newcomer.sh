#!/bin/bash
# newcomer.sh [SUITE…]: what somebody sees who has a bare Debian or Ubuntu with git, make
# and Go, and types the README's two commands: `make run`, and of `make test` the
# dependencies, the build and the tests of two packages, one with pods. SUITE is a release
# that debootstrap knows: bookworm, trixie, noble (these by default), or fedora, which is
# bookworm without apt, and must say what is missing. It needs root, debootstrap, a network
# and Go in /usr/local/go; trees and Go's caches are kept in bin/newcomer.
#
# The transcripts are in bin/newcomer/SUITE.log. Another GOPROXY is passed on.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
  echo "newcomer.sh makes trees of other distributions: run it as root." >&2
  exit 1
}
[ $# -gt 0 ] || set -- bookworm trixie noble fedora
dir=$PWD/bin/newcomer
mkdir -p "$dir/cache"

mirror() {
  case $1 in
  bookworm | trixie | sid) echo "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" ;;
  *) echo "${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}" ;;
  esac
}

# tree SUITE: makes $dir/SUITE once, with nothing but the minimal system, git and make. A
# debootstrap knows no release that is younger than it; the steps of all Ubuntu's are the same.
# UBUNTU_KEYRING is the file of Ubuntu's keys, from its package ubuntu-keyring.
tree() {
  [ ! -d "$dir/$1" ] || return 0
  rm -rf "$dir/$1.half"
  local as=()
  case $1 in
  bookworm | trixie | sid) ;;
  *)
    local keys=${UBUNTU_KEYRING:-/usr/share/keyrings/ubuntu-archive-keyring.gpg}
    [ -e "$keys" ] || {
      echo "$1: $keys is missing: take it from Ubuntu's package ubuntu-keyring, and say UBUNTU_KEYRING=FILE where it is" >&2
      return 1
    }
    as=(--keyring="$keys" --components=main,universe) # what its installers enable
    ;;
  esac
  debootstrap "${as[@]}" --variant=minbase --include=ca-certificates,git,make "$1" "$dir/$1.half" "$(mirror "$1")" \
    ${as:+/usr/share/debootstrap/scripts/gutsy} >"$dir/$1.debootstrap.log" 2>&1 || {
    tail -n 5 "$dir/$1.debootstrap.log" >&2
    return 1
  }
  mv "$dir/$1.half" "$dir/$1"
}

# inside TREE SCRIPT: runs a script in TREE as on a fresh machine, which has nothing of this
# one but Go, the source and the network.
inside() {
  local source=$PWD
  env -i HOME=/root TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SOURCE="$source" \
    GOCACHE="$dir/cache/build" GOMODCACHE="$dir/cache/mod" ${GOPROXY:+GOPROXY="$GOPROXY"} \
    hack/fresh.sh --net --bind /usr/local/go --bind "$source" "$dir/$1" bash -ec "$2"
}

steps='
say() { printf "\n# %s\n" "$*"; "$@"; }
. /etc/os-release
echo "$PRETTY_NAME, $(git --version), $(make --version | head -n 1), $(/usr/local/go/bin/go version)"
git config --global --add safe.directory "*"
say git clone -q "$SOURCE" /root/berth
cd /root/berth
say env BERTH_RUN_ONCE=1 make run
# Of make test, which takes twenty minutes: its first steps and two packages.
say make deps-test build cni
PATH=$PATH:/usr/local/go/bin
say go test -buildvcs=false -tags seccomp,runc_nocriu -count=1 ./oci/atomicfile
say go test -buildvcs=false -tags seccomp,runc_nocriu -count=1 -run "^TestExecSync" ./test/integration
[ -z "$(git status --porcelain)" ] || { git status --short; exit 1; }
'

# Without apt nothing can be installed: what is missing is named, as that system calls it.
bare='
git config --global --add safe.directory "*"
git clone -q "$SOURCE" /root/berth
cd /root/berth
rm -f /usr/bin/apt-get
printf "#!/bin/sh\nexit 1\n" >/usr/bin/dnf
chmod 755 /usr/bin/dnf
set +e
for target in build run test; do
  printf "\n# make %s\n" $target
  said=$(make $target 2>&1) && { echo "$said"; echo "make $target succeeded without a compiler"; exit 1; }
  echo "$said"
  case $said in *"dnf install gcc"*) ;; *) echo "make $target does not say what is missing"; exit 1 ;; esac
done
'

failed=()
for suite; do
  case $suite in fedora) base=bookworm script=$bare ;; *) base=$suite script=$steps ;; esac
  printf '\n== %s\n' "$suite"
  tree "$base" || {
    echo "$suite: no tree: is $(mirror "$base") reachable?"
    failed+=("$suite")
    continue
  }
  if inside "$base" "$script" 2>&1 | tee "$dir/$suite.log"; then continue; fi
  failed+=("$suite")
done
printf '\n'
[ ${#failed[@]} -eq 0 ] || {
  echo "Not as the README says: ${failed[*]}" >&2
  exit 1
}
echo "As the README says: $*"
