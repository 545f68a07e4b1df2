#!/bin/sh
# Renews locks/: exact versions with hashes for every Python and platform we run on, no index named.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
        --custom-compile-command "make lock" "$@"
}
compile pyproject.toml --extra speech --group examples --group build --output-file locks/run.txt "$@"
compile pyproject.toml --extra speech --extra speech-neural --group dev --constraint locks/run.txt --output-file locks/dev.txt "$@"
for peer in bench/locks/*.in; do
    compile "$peer" --output-file "${peer%.in}.txt" "$@"
done
