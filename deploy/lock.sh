#!/usr/bin/env bash
# Writes requirements/image-*.txt anew: every package of the container images, the versions of constraints.txt, with
# the hashes of its wheels. Call it after a change of pyproject.toml or constraints.txt; a test says when it is due.
# No torchvision and no timm, as in constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
torch=$(sed -n 's/^torch==//p' constraints.txt)
uv=$(sed -n 's/^uv==//p' requirements/image-tools.in)
.venv/bin/python -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "uv==$uv"

lock() { # FILE SOURCE OPTION…
    local file=requirements/$1
    shift
    {
        echo "# Made by deploy/lock.sh; not to be edited."
        "$work/venv/bin/uv" pip compile "$@" --constraint constraints.txt --generate-hashes --only-binary :all: \
            --python-version 3.11 --python-platform x86_64-manylinux_2_36 --no-annotate --no-header --quiet \
            --no-emit-find-links
    } >"$work/list"
    mv "$work/list" "$file"
    echo "$file: $(grep -c == "$file") packages"
}

none="torchvision ; sys_platform == 'never'
timm ; sys_platform == 'never'"
echo "$none" >"$work/cuda"
printf '%s\ntorch==%s+cpu\n' "$none" "$torch" >"$work/cpu"
find_links=$("$work/venv/bin/pip" config get global.find-links 2>/dev/null || echo https://download.pytorch.org/whl/cpu)
lock image-tools.txt requirements/image-tools.in
lock image-cpu.txt pyproject.toml --extra postgresql --override "$work/cpu" --find-links "$find_links"
lock image-cuda.txt pyproject.toml --extra postgresql --override "$work/cuda"
