#!/bin/sh
# Within the build of an image. From /wheels if there are any, without any network; else from PyPI and an extra index.
#
#     image-packages.sh tools                     uv and setuptools into /opt/tools
#     image-packages.sh wheel                     the node itself, /src, as a wheel
#     image-packages.sh list LIST [EXTRA_INDEX]   a list of packages, each by its hash, into /opt/fvlm
#     image-packages.sh node WHEEL                the node into /opt/fvlm
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
list)
    [ -n "$local" ] || local=${3:+--extra-index-url $3 --index-strategy unsafe-best-match} # hashes make it safe
    $tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/fvlm
    $tools/bin/uv pip install --quiet --no-cache --no-deps --compile-bytecode --python /opt/fvlm/bin/python \
        --require-hashes --no-build $local --requirement "$2"
    ;;
node)
    $tools/bin/uv pip install --quiet --no-cache --no-deps --compile-bytecode --python /opt/fvlm/bin/python \
        --offline "$2"
    ;;
esac
