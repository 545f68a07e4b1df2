#!/bin/sh
# Makes .venv hold exactly what a lock file names. Usage: scripts/setup.sh run|dev
# Uses uv if it is there, else pip; either way the same versions, checked by hash.
set -eu
cd "$(dirname "$0")/.."
what=$1
lock="locks/$what.txt"
stamp=".venv/.fairlead-$what"

fingerprint() { cat "$1" pyproject.toml | cksum; }

# The development lock holds everything that the run lock does.
for there in "$what" dev; do
    if [ -f ".venv/.fairlead-$there" ] && [ "$(cat ".venv/.fairlead-$there")" = "$(fingerprint "locks/$there.txt")" ]; then
        exit 0
    fi
done

right='import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)'
python=""
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$right" >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: Fairlead needs Python 3.11 or newer; none of python3, python3.11 ... python3.14 is that." >&2
    echo "       Install one (on Debian or Ubuntu: apt install python3), or name it: make run PYTHON=/path/to/python3" >&2
    exit 1
fi

echo "setting up .venv with $("$python" --version) from $lock (once; downloads about 250 MB)" >&2
rm -f .venv/.fairlead-*
if command -v uv >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    uv pip sync --python .venv/bin/python --require-hashes "$lock"
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    if [ ! -x .venv/bin/python ]; then
        if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            echo "error: this Python cannot make virtual environments: it comes without 'venv'." >&2
            echo "       Install it (on Debian or Ubuntu: apt install python$version-venv), or install uv." >&2
            exit 1
        fi
        "$python" -m venv .venv
    fi
    .venv/bin/python -m pip install --disable-pip-version-check --require-hashes --requirement "$lock"
    .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
fi
fingerprint "$lock" > "$stamp"
