#!/bin/bash
# older.sh COMMIT…: builds the programs of older commits, each into bin/older/COMMIT, for
# the test of upgrades. A clone without a commit's history goes without it, and says so.
set -eu
cd "$(dirname "$0")/.."
tree=
trap 'rm -rf "$tree"' EXIT
for commit; do
  out=$PWD/bin/older/$commit
  [ -x "$out/berthd" ] && continue
  if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    echo "older.sh: this clone lacks the commit $commit (is it shallow?): no upgrade from it is tested"
    continue
  fi
  tree=$(mktemp -d)
  git archive "$commit" | tar -x -C "$tree"
  make -s -C "$tree" build VERSION="$commit"
  mkdir -p "$out"
  mv "$tree/bin/berth-shim" "$tree/bin/berthd" "$out/" # berthd last: it says that all is there
  rm -rf "$tree"
done
