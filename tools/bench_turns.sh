#!/usr/bin/env bash
# Benchmarks of an older revision and of this checkout by turns, so that both meet the same machine:
#   tools/bench_turns.sh REVISION TURNS OUT "secure --quick"
# writes OUT/old_1.json, OUT/new_1.json, OUT/old_2.json … The environment's compiled messages must fit both.
set -euo pipefail
cd "$(dirname "$0")/.."
revision=$1 turns=$2 out=$(mkdir -p "$3" && cd "$3" && pwd) words=$4
new=$PWD python=$PWD/.venv/bin/python
old=$(mktemp -d)
trap 'git -C "$new" worktree remove --force "$old"' EXIT
git worktree add --quiet --detach "$old" "$revision"
for turn in $(seq "$turns"); do
  for which in old new; do
    printf 'turn %s of %s: %s\n' "$turn" "$turns" "$which"
    # shellcheck disable=SC2086
    (cd "${!which}" && PYTHONPATH=$PWD "$python" -m chimera_ros.cli bench $words --json > "$out/${which}_$turn.json")
  done
done
