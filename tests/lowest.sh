#!/usr/bin/env bash
# The oldest libraries that settings.ini allows: a fresh environment, the unit tests, and a small demo.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3.11}" -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install -qq --disable-pip-version-check uv
"$scratch/tools/bin/uv" venv -q --python "${PYTHON:-python3.11}" "$scratch/venv"
export VIRTUAL_ENV="$scratch/venv" PATH="$scratch/venv/bin:$PATH"
"$scratch/tools/bin/uv" pip install -q --resolution lowest-direct -e '.[excel]'
"$scratch/tools/bin/uv" pip install -q pytest pytest-xdist hypothesis
"$scratch/tools/bin/uv" pip list --format freeze | grep -E '^(torch|timm|fastai|numpy|pandas|scikit-learn|scipy|transformers|pillow|pydicom)'

export CI=true OMP_NUM_THREADS=1
# the notebooks, their export and their pages need nbdev, which needs newer libraries
skip=()
for name in notebooks export docs pages tools; do skip+=(--ignore "tests/test_$name.py"); done
pytest -n auto --dist worksteal "${skip[@]}"
mmpkd demo --seeds 2 --epochs 1 --n 120 --out "$scratch/demo"
