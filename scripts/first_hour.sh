#!/usr/bin/env bash
# A new user's first hour, from a fresh clone: commands, seconds, what was said, and the truth at the end.
#
#   scripts/first_hour.sh CHECKPOINT IMAGES TEST [OPTIONS OF THE TRIGGER …] | tee first_hour.txt
#
# IMAGES is a folder of some 500 labelled images, TEST the data set that the truth is measured on, as --data takes it. The
# trigger is given to `evaluate` alone: the other commands do not know it. docs/first_hour.md is such a record.
set -uo pipefail
cd "$(dirname "$0")/.."

checkpoint=$1 images=$2 test=$3
shift 3
name=$(basename "$checkpoint")
out=runs/first_hour/${name%.*}

step() {
  local begun=$SECONDS
  printf '\n$ %s\n' "$*"
  "$@" 2>&1
  printf '[exit status %d, %d s]\n' $? $((SECONDS - begun))
}

PATH=$PWD/.venv/bin:$PATH
step make .venv/.installed
step rnp-jax --help
step rnp-jax inspect "$checkpoint"
step rnp-jax check "$checkpoint" --data "$images" --out "$out"
step ls "$out"
step rnp-jax evaluate "$checkpoint" --data "$test" "$@"
for new in "$out"/cleaned.*; do
  [ -f "$new" ] && step rnp-jax evaluate "$new" --data "$test" "$@"
done
printf '\nall: %d s\n' "$SECONDS"
