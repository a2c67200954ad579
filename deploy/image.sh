#!/usr/bin/env bash
# Container images, with Docker or, where there is no Docker engine, with Debian's buildah and runc.
#
#     deploy/image.sh build [cpu|cuda|orthanc]   the image localhost/fvlm-node:TARGET; further options go to the build
#     deploy/image.sh wheels [cpu|cuda]          its packages into deploy/wheels, so that the build needs no index
#     deploy/image.sh base                       a Debian 12 from the machine's own mirror under the name of the base
#     deploy/image.sh podman …                   podman as the two above use it
#     deploy/image.sh clean                      removes all of it
#
# ENGINE=buildah leaves a Docker engine aside. Without Docker images are kept in .test-data/images, `base` is needed once, and root is.
set -euo pipefail
cd "$(dirname "$0")/.."

store=$PWD/.test-data/images
base=docker.io/library/debian:bookworm-slim
export CONTAINERS_CONF=$store/containers.conf CONTAINERS_STORAGE_CONF=$store/storage.conf
root=()
[ "$(id -u)" -eq 0 ] || root=(sudo -n --preserve-env=CONTAINERS_CONF,CONTAINERS_STORAGE_CONF)

configure() {
    mkdir -p "$store"
    # runc, and limits below the machine's own: crun and podman's defaults want what not every machine gives.
    cat >"$CONTAINERS_CONF" <<-CONF
		[containers]
		default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
		[engine]
		runtime = "runc"
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		[network]
		network_backend = "netavark"
	CONF
    cat >"$CONTAINERS_STORAGE_CONF" <<-CONF
		[storage]
		driver = "overlay"
		graphroot = "$store/graph"
		runroot = "$store/run"
	CONF
}

make_base() {
    configure
    if "${root[@]}" podman image exists $base; then return; fi
    if [ ! -s "$store/base.tar" ]; then
        local sources=() line
        while read -r line; do sources+=("deb $line"); done < <(
            apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Component: main' |
                awk '$2 ~ /^bookworm/ && !seen[$0]++'
        )
        "${root[@]}" mmdebstrap --quiet --format=tar --variant=minbase --include=ca-certificates \
            --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
            bookworm "$store/base.tar.new" "${sources[@]}"
        mv "$store/base.tar.new" "$store/base.tar"
    fi
    "${root[@]}" podman import --quiet --change 'CMD ["/bin/bash"]' "$store/base.tar" $base
}

fetch_wheels() {
    local list
    for list in tools "${1:-cpu}"; do
        .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
            --only-binary :all: --dest deploy/wheels --requirement "requirements/image-$list.txt"
    done
}

build() {
    local target=${1:-cpu}
    shift || true
    local tag=localhost/fvlm-node:$target
    if [ "${ENGINE:-docker}" = docker ] && command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        docker build --target "$target" --tag "$tag" "$@" .
    else
        configure
        "${root[@]}" buildah bud --layers --pull-never --format docker --network host --target "$target" --tag "$tag" \
            --file Dockerfile "$@" .
    fi
}

clean() {
    if [ -e "$store/graph" ]; then # made by root, and mounted onto itself
        "${root[@]}" podman rm --force --all >/dev/null
        "${root[@]}" umount "$store/graph/overlay" 2>/dev/null || true
        "${root[@]}" rm -rf "$store"
    fi
    rm -rf "$store"
    find deploy/wheels -name '*.whl' -delete
}

task=${1:-}
shift || true
case $task in
build) build "$@" ;;
wheels) fetch_wheels "$@" ;;
base) make_base ;;
podman) configure && exec "${root[@]}" podman "$@" ;;
clean) clean ;;
*)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
