#!/bin/bash
# run.sh: runs critest against bin/berthd, see doc.go; further arguments are the
# runner's, as -focus 'Image Manager'. `make critest` calls it.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${GO:-go}" run -buildvcs=false ./test/critest "$@"
