#!/usr/bin/env bash
# Measures everything, in less than 20 minutes on a quiet machine, and writes the results: as JSON, Markdown and a
# picture into a folder, and, unless --only leaves something out, the tables into docs/benchmarks.md and the picture beside it.
#
#	bash bench/run.sh [FOLDER] [OPTION…]     FOLDER is bench/results, options are those of bench --help
set -euo pipefail
folder=
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
	folder=$(realpath -m -- "$1")
	shift
fi
cd "$(dirname "$0")"
folder=${folder:-$PWD/results}
command -v cc >/dev/null || { echo "bench: it needs a C compiler, as cc" >&2; exit 1; }

program=$(mktemp -d /tmp/fdkit-bench.XXXXXX)
trap 'rm -rf "$program"' EXIT
go build -o "$program/bench" .
"$program/bench" --out "$folder" --page ../docs/benchmarks.md "$@"
echo "written: $folder/results.json, results.md, ratios.svg" >&2
