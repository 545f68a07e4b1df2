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
if command -v uv >/dev/null 2>&1; then whole='import venv'; else whole='import ensurepip, venv'; fi

# Where nobody said which: of all Pythons on the PATH the first that makes environments and was built with optimisations
# (pyenv builds without: starts cost a third more processor time, requests a seventh); else the first that makes environments.
python=""
complete="" # the first that makes environments
any=""      # the first that is new enough
look_at() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c "$right" >/dev/null 2>&1 || return 0
    : "${any:=$1}"
    "$1" -c "$whole" >/dev/null 2>&1 || return 0
    : "${complete:=$1}"
    if "$1" src/fairlead/kits/interpreter.py >/dev/null 2>&1; then python=$1; fi
}
look_everywhere() {
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        rest=$PATH:
        while [ -z "$python" ] && [ -n "$rest" ]; do
            directory=${rest%%:*}
            rest=${rest#*:}
            if [ -x "$directory/$name" ]; then look_at "$directory/$name"; fi
        done
    done
}

if [ -x .venv/bin/python ] && .venv/bin/python -c "$right" >/dev/null 2>&1; then
    python=.venv/bin/python # made before; what it lacks comes into it
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is not looked at, because .venv is there: \`make clean\` removes it" >&2
    fi
else
    rm -rf .venv # of a Python that is gone or too old, if there is one
    if [ -n "${PYTHON:-}" ]; then look_at "$PYTHON"; else look_everywhere; fi
    if [ -z "$any" ]; then
        echo "error: Fairlead needs Python 3.11 or newer; none of ${PYTHON:-python3, python3.11 ... python3.14} is that." >&2
        echo "       Install one (on Debian or Ubuntu: apt install python3), or name it: make run PYTHON=/path/to/python3" >&2
        exit 1
    fi
    python=${python:-${complete:-$any}}
    if [ -n "$complete" ] && [ "$python" != "$complete" ]; then
        echo "$complete was built without optimisations, which makes starts a third slower; $python is taken." >&2
        echo "  To have it all the same: make clean, then PYTHON=$complete with the first command." >&2
    fi
fi
echo "setting up .venv with $("$python" --version) ($python) from $lock (once; downloads about 250 MB)" >&2
rm -f .venv/.fairlead-*
if command -v uv >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    uv pip sync --python .venv/bin/python --require-hashes "$lock"
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    if [ ! -x .venv/bin/python ]; then
        if [ -z "$complete" ]; then
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
