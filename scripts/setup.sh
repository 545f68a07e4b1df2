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

# Where nobody said which: every Python on the PATH. One that was compiled without optimisations (as pyenv does)
# is taken if there is no other: with it everything costs about a quarter more processor time.
right='import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)'
if command -v uv >/dev/null 2>&1; then whole='import venv'; else whole='import ensurepip, venv'; fi
python=""  # the one to take
plain=""   # the first that would do
look_at() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c "$right" >/dev/null 2>&1 || return 0
    [ -n "$plain" ] || plain=$1
    if "$1" src/fairlead/kits/interpreter.py >/dev/null 2>&1 && "$1" -c "$whole" >/dev/null 2>&1; then
        python=$1
    fi
}
if [ -x .venv/bin/python ] && .venv/bin/python -c "$right" >/dev/null 2>&1; then
    plain=.venv/bin/python  # made before; what it lacks comes into it
elif [ -n "${PYTHON:-}" ]; then
    look_at "$PYTHON"
else
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        rest=$PATH:
        while [ -z "$python" ] && [ -n "$rest" ]; do
            directory=${rest%%:*}
            rest=${rest#*:}
            if [ -x "$directory/$name" ]; then look_at "$directory/$name"; fi
        done
    done
fi
if [ -z "$plain" ]; then
    echo "error: Fairlead needs Python 3.11 or newer; none of python3, python3.11 ... python3.14 is that." >&2
    echo "       Install one (on Debian or Ubuntu: apt install python3), or name it: make run PYTHON=/path/to/python3" >&2
    exit 1
fi
: "${python:=$plain}"

echo "setting up .venv with $("$python" --version) ($python) from $lock (once; downloads about 250 MB)" >&2
if [ "$python" != "$plain" ]; then
    echo "  not with $plain: built without optimisations, so slower by a quarter, or without venv (PYTHON=$plain takes it)" >&2
fi
rm -f .venv/.fairlead-*
if command -v uv >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    uv pip sync --python .venv/bin/python --require-hashes "$lock"
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    if [ ! -x .venv/bin/python ]; then
        if ! "$python" -c "$whole" >/dev/null 2>&1; then
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
