#!/bin/sh
# Makes build/kserve hold KServe's client, in an environment of its own: it pins other versions than we do.
set -eu
cd "$(dirname "$0")/.."
wanted=0.21.0
there=build/kserve
if [ "$("$there/bin/python" -c 'import importlib.metadata as m; print(m.version("kserve"))' 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "installing KServe $wanted into $there (once; about 450 MB)" >&2
rm -rf "$there"
if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --python .venv/bin/python "$there"
    uv pip install --quiet --python "$there/bin/python" "kserve==$wanted"
else
    .venv/bin/python -m venv "$there"
    "$there/bin/python" -m pip install --quiet --disable-pip-version-check "kserve==$wanted"
fi
