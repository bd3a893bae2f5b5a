#!/bin/sh
# Prints the version of this tree as https://semver.org has it, with its commit: of the
# tag v1.2.3 it is 1.2.3+g0123abcd, seven commits later 1.2.4-dev.7+g89abcdef, and
# 0.0.0-dev.COMMITS+gCOMMIT before the first tag. Changes that are not committed add
# .dirty; without git it is 0.0.0-dev.
set -eu
cd "$(dirname "$0")/.."
if ! commit=$(git rev-parse --short=10 HEAD 2>/dev/null); then
	echo 0.0.0-dev
	exit 0
fi
build="+g$commit"
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || build="$build.dirty"
tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null || true)
if [ -z "$tag" ]; then
	echo "0.0.0-dev.$(git rev-list --count HEAD)$build"
	exit 0
fi
after=$(git rev-list --count "$tag..HEAD")
version=${tag#v}
case "$after:$version" in
0:*) ;;
*-*) version="$version.dev.$after" ;; # of v1.2.3-rc.1, which it is later than: 1.2.3-rc.1.dev.7
*)
	major_minor=${version%.*}
	version="$major_minor.$((${version##*.} + 1))-dev.$after"
	;;
esac
echo "$version$build"
