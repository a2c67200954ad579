# fVLM Node. Targets: `cpu` (the default), `cuda` (NVIDIA GPU), `orthanc` (an archive with the node's plugin).
#
#     docker build --target cpu --tag localhost/fvlm-node:cpu .
#
# Every Python package is one of requirements/image-*.txt, by its hash: from deploy/wheels where they lie there
# (deploy/image.sh wheels), else from PyPI. The base is a tag unless you pin it:
# --build-arg BASE=docker.io/library/debian@sha256:…  How this file is tested: docs/operations/install.md.
ARG BASE=docker.io/library/debian:bookworm-slim


FROM ${BASE} AS system
ENV LANG=C.UTF-8
# Debian's own security updates matter more here than a version that stands still.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends --yes python3 \
    && rm -rf /var/lib/apt/lists/*


FROM system AS tools
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends --yes ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/tools
COPY deploy/image-packages.sh requirements/image-tools.txt /opt/tools/
RUN --mount=type=bind,source=deploy/wheels,target=/wheels \
    /opt/tools/image-packages.sh tools
COPY pyproject.toml README.md LICENSE /src/
COPY config /src/config
COPY ct /src/ct
COPY dicom_sr /src/dicom_sr
COPY fvlm /src/fvlm
COPY node /src/node
COPY training /src/training
RUN /opt/tools/image-packages.sh wheel


FROM system AS runtime
# A user without a name elsewhere, a home or a shell; it owns /data and nothing else.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin fvlm \
    && install --directory --owner fvlm --group fvlm --mode 0700 /data
ENV PATH=/opt/fvlm/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/data \
    MPLCONFIGDIR=/tmp/matplotlib \
    FVLM_DATA_DIR=/data
WORKDIR /data
VOLUME /data
EXPOSE 11112 8112
STOPSIGNAL SIGTERM
ENTRYPOINT ["fvlm-node"]
CMD ["serve"]
# Of a container that runs one role, give the role: fvlm-node health receiver
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["fvlm-node", "health"]


FROM ${BASE} AS orthanc
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends --yes \
        ca-certificates curl orthanc orthanc-dicomweb orthanc-python \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner orthanc --group orthanc --mode 0700 /data
COPY node/orthanc_plugin.py /usr/share/fvlm-node/
# hadolint ignore=DL3066
USER orthanc:orthanc
WORKDIR /data
VOLUME /data
EXPOSE 4242 8042
ENTRYPOINT ["Orthanc"]
CMD ["/etc/orthanc/"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8042/app/explorer.html"]


FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY requirements/image-cuda.txt /usr/share/fvlm-node/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=deploy/wheels,target=/wheels \
    /opt/tools/image-packages.sh list /usr/share/fvlm-node/image-cuda.txt
COPY --from=tools /opt/tools/dist/ /usr/share/fvlm-node/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/image-packages.sh node /usr/share/fvlm-node/*.whl
USER 10001:10001


FROM runtime AS cpu
COPY requirements/image-cpu.txt /usr/share/fvlm-node/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=deploy/wheels,target=/wheels \
    /opt/tools/image-packages.sh list /usr/share/fvlm-node/image-cpu.txt https://download.pytorch.org/whl/cpu
COPY --from=tools /opt/tools/dist/ /usr/share/fvlm-node/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/image-packages.sh node /usr/share/fvlm-node/*.whl
USER 10001:10001
