#!/usr/bin/env bash
# The GPU run: correctness, then speed.  docs/gpu.md says what is measured; options go to benchmarks/gpu.py.
# Works without network: wheels that are missing on the machine are installed from the folder wheels/.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
ln -s "$root" "$site/attnc" # the repository root is the package, whatever the folder is called
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

if compgen -G "$root/wheels/*.whl" >/dev/null; then
    # Only what the machine lacks, into a folder of this run's own: torch and what it uses stay as they are.
    missing=$("$python" - "$root"/wheels/*.whl <<'END'
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

for wheel in sys.argv[1:]:
    try:
        distribution(Path(wheel).name.split("-")[0])
    except PackageNotFoundError:
        print(wheel)
END
    )
    if [[ -n $missing ]]; then
        mapfile -t wheels <<<"$missing"
        "$python" -m pip install --quiet --no-index --find-links "$root/wheels" --no-deps --no-compile --no-cache-dir \
            --disable-pip-version-check --root-user-action=ignore --target "$site/wheels" "${wheels[@]}"
        export PYTHONPATH="$PYTHONPATH:$site/wheels"
    fi
fi

"$python" "$root/benchmarks/gpu.py" "$@"
