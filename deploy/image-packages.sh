#!/bin/sh
# Within the build of an image. From /wheels if there are any, without any network; else from PyPI and an extra index.
#
#     image-packages.sh tools                     uv and setuptools into /opt/tools
#     image-packages.sh wheel                     the node itself, /src, as a wheel
#     image-packages.sh node LIST [EXTRA_INDEX]   a list of packages, each by its hash, and the node into /opt/fvlm
set -eu

tools=/opt/tools
local=
if [ -n "$(find /wheels -name '*.whl' -print -quit 2>/dev/null)" ]; then local='--no-index --find-links /wheels'; fi

# $local is two options, or none.
# shellcheck disable=SC2086
case $1 in
tools)
    $tools/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
        --only-binary :all: $local --requirement $tools/image-tools.txt
    ;;
wheel)
    $tools/bin/uv build --offline --no-cache --no-build-isolation --python $tools/bin/python --wheel \
        --out-dir $tools/dist /src
    ;;
node)
    [ -n "$local" ] || local=${3:+--extra-index-url $3 --index-strategy unsafe-best-match} # hashes make it safe
    $tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/fvlm
    set -- "$2" --quiet --no-cache --no-deps --compile-bytecode --python /opt/fvlm/bin/python
    list=$1
    shift
    $tools/bin/uv pip install "$@" --require-hashes --no-build $local --requirement "$list"
    $tools/bin/uv pip install "$@" --offline $tools/dist/*.whl
    ;;
esac
