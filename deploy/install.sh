#!/usr/bin/env bash
# Sets the project up in .venv: `deploy/install.sh` for running it, `deploy/install.sh test` for its tests as well.
# A second run is a no-op until pyproject.toml, constraints.txt, requirements/ or this file change.
set -euo pipefail
cd "$(dirname "$0")/.."

level=${1:-run}
case $level in
run | test) ;;
*)
    echo "deploy/install.sh: '$level' is neither 'run' nor 'test'" >&2
    exit 2
    ;;
esac

venv=.venv
torch=$(sed -n 's/^torch==//p' constraints.txt)
started=$SECONDS

fail() {
    echo "Set-up stopped: $1" >&2
    echo "What to do:     $2" >&2
    exit 2
}

say() { echo "[set-up $((SECONDS - started)) s] $1"; }

fingerprint() {
    { pwd; cat pyproject.toml constraints.txt requirements/*.txt deploy/install.sh; } | sha256sum | cut -d' ' -f1
}

is_done() { [ -x "$venv/bin/fvlm-node" ] && [ "$(cat "$venv/.installed-$1" 2>/dev/null)" = "$(fingerprint)" ]; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 /usr/bin/python3.11 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 found (tried python3.11 and python3)" \
        "apt-get install python3.11, or name one: PYTHON=/path/to/python3.11 make demo"
}

make_venv() {
    local python
    python=$(find_python)
    say "virtual environment in $venv ($("$python" --version))"
    if "$python" -m venv "$venv" >/dev/null 2>&1; then return; fi
    # Debian without python3.11-venv: no ensurepip. A pip outside can fill an empty environment.
    if "$python" -m venv --clear --without-pip "$venv" 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1 &&
        "$python" -m pip --python "$venv/bin/python" install --quiet pip; then return; fi
    if "$python" -m virtualenv --quiet --clear "$venv" 2>/dev/null; then return; fi
    rm -rf "$venv"
    fail "$python can make no virtual environment (ensurepip, pip and virtualenv are all missing)" \
        "apt-get install python3.11-venv, then the same command again"
}

pip_install() { "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --progress-bar off "$@"; }

has_torch() {
    "$venv/bin/python" - "$torch" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
sys.exit(version("torch").split("+")[0] != sys.argv[1])
PY
}

install_torch() {
    if has_torch; then return; fi
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        say "PyTorch $torch (NVIDIA GPU found)"
        pip_install "torch==$torch"
        return
    fi
    say "PyTorch $torch for CPU (no NVIDIA GPU found)"
    # First what pip is configured with, then PyTorch's own index of CPU builds.
    if pip_install "torch==$torch+cpu" 2>/dev/null; then return; fi
    if pip_install --timeout 20 --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu \
        "torch==$torch+cpu" 2>/dev/null; then return; fi
    say "no CPU build can be reached: taking the default build of torch (on x86-64 Linux several GB with CUDA)"
    pip_install "torch==$torch" || fail "pip cannot install torch $torch (see above)" \
        "check the network and pip's configuration (pip config list), then the same command again"
}

install_packages() {
    say "packages (versions of constraints.txt)"
    pip_install -c constraints.txt -e "$1" || fail "pip could not install the packages (see above)" \
        "check the network and pip's configuration (pip config list), then the same command again"
}

# The packages of a list that are not installed, a line each.
missing_of() {
    local package
    while read -r package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done < <(grep -v '^#' "$1")
}

# apt-get update and install, output into apt.log. No service is started by it: the tests start their own, and a broker
# or database that nobody asked for stays away.
apt_install() {
    local status=0 policy=/usr/sbin/policy-rc.d apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    [ -e $policy ] && policy=
    if [ -n "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
        "${root[@]}" chmod 0755 $policy
    fi
    { "${root[@]}" "${apt[@]}" update && "${root[@]}" "${apt[@]}" install --no-install-recommends -y "$@"; } \
        >"$venv/apt.log" 2>&1 || status=$?
    if [ -n "$policy" ]; then "${root[@]}" rm -f $policy; fi
    return $status
}

install_system_packages() {
    command -v dpkg-query >/dev/null || fail "the tests need Debian packages, and this machine has no dpkg" \
        "run the tests on Debian 12, or install what deploy/debian-test-packages.txt lists by hand"
    local missing image
    mapfile -t missing < <(missing_of deploy/debian-test-packages.txt)
    mapfile -t image < <(missing_of deploy/debian-image-packages.txt)
    command -v npm >/dev/null || missing+=(npm) # fetches the OHIF viewer; Debian's own clashes with other builds of node
    if [ $((${#missing[@]} + ${#image[@]})) -eq 0 ]; then return; fi
    say "Debian packages: ${missing[*]} ${image[*]}"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        if [ ${#missing[@]} -eq 0 ] && ! command -v sudo >/dev/null; then
            say "neither root nor sudo: the test of the container image will be skipped"
            return
        fi
        command -v sudo >/dev/null || fail "the tests need Debian packages and this is neither root nor is there sudo" \
            "as root: apt-get install --no-install-recommends ${missing[*]}"
        root=(sudo)
    fi
    if [ ${#image[@]} -gt 0 ] && apt_install "${missing[@]}" "${image[@]}"; then return; fi
    if [ ${#image[@]} -gt 0 ]; then say "no ${image[*]} to be had: the test of the container image will be skipped"; fi
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}" || {
        tail -n 5 "$venv/apt.log" >&2
        fail "apt-get could not install ${missing[*]} (whole log: $venv/apt.log)" "mend apt, then the same command again"
    }
}

is_done "$level" && exit 0
[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
install_torch
if [ "$level" = test ]; then
    install_packages '.[test]'
    say "TotalSegmentator without torchvision"
    pip_install --no-deps -c constraints.txt -r requirements/totalsegmentator.txt
    install_system_packages
    say "real CTs of the tests"
    "$venv/bin/python" tests/real_ct.py
    say "OHIF viewer of the tests"
    "$venv/bin/python" tests/ohif_package.py
    fingerprint >"$venv/.installed-test"
else
    install_packages .
fi
fingerprint >"$venv/.installed-run"
say "ready"
