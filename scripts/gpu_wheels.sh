#!/usr/bin/env bash
# Collects into gpu-wheels/ what `scripts/gpu_check.py` needs on a machine that has only torch and transformers (Linux on x86-64).
# Usage: scripts/gpu_wheels.sh [PYTHON_VERSION of that machine, default 3.12]
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-3.12} python=.venv/bin/python folder=gpu-wheels most=60
[ -x "$python" ] || { echo "gpu_wheels: no .venv; run: make .venv/ready" >&2; exit 2; }

wanted=() built=()
while read -r name; do
  pinned=$(grep -iE "^${name//-/[-_.]}==" requirements-cpu.lock || true)
  if [ "$name" = deepspeed ] || [ "$name" = hjson ]; then built+=("${pinned:-$name}"); else wanted+=("${pinned:-$name}"); fi
done < <(grep -v '^#' scripts/gpu/carried.txt)

rm -rf "$folder"
platforms=(--platform any)
for glibc in 5 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
for old in 1 2010 2014; do platforms+=(--platform "manylinux${old}_x86_64"); done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" "${platforms[@]}" \
  --dest "$folder" "${wanted[@]}"
# DeepSpeed has no wheels. Built without operators, its wheel is the same for every Python; operators are compiled at first use.
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder" "${built[@]}"

mib=$(du --summarize --block-size=1M "$folder" | cut -f1)
echo "$folder: $(ls "$folder" | wc -l) wheels, $mib MiB"
[ "$mib" -le "$most" ] || { echo "gpu_wheels: more than $most MiB; shorten scripts/gpu/carried.txt" >&2; exit 1; }
