#!/bin/sh
# Removes what make built. Refuses while Fairlead runs here, so that no process loses its files.
set -eu
cd "$(dirname "$0")/.."
if [ -f .fairlead/up.json ] && [ -f .fairlead/up.lock ] && ! flock --nonblock .fairlead/up.lock true 2>/dev/null; then
    echo "error: Fairlead runs in .fairlead/; stop it first (Ctrl-C)" >&2
    exit 1
fi
rm -rf .venv .fairlead .bench build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
