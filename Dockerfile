# Images of Unmix. `docker build .` makes the step service's; `--target gpu`, `--target training` and
# `--target load` the others. docs/containers.md says how each is run.

# A tag, so that a rebuild brings the base's security fixes. For a build that repeats itself, give
# the digest too: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
# By number below, so that Kubernetes' runAsNonRoot can tell that it is nobody's root.
RUN groupadd --gid 10001 unmix \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unmix
ENV PATH=/opt/unmix/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Unmix" \
      org.opencontainers.image.description="Cooperative agents trained together with QMIX and executed apart" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Each build stage installs what pyproject.toml asks for before any code is there: that layer stays
# while only the code changes. The package is then what was copied, so no image has more code than
# it runs.
FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/unmix
ENV PATH=/opt/unmix/bin:$PATH PIP_CACHE_DIR=/var/cache/pip
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./

FROM build AS build-serving
RUN --mount=type=cache,target=/var/cache/pip python -m pip install '.[serve,auth,otel]'
COPY serving serving
RUN --mount=type=cache,target=/var/cache/pip python -m pip install --no-deps --force-reinstall .

FROM build AS build-gpu
RUN --mount=type=cache,target=/var/cache/pip python -m pip install '.[serve-gpu,auth,otel]'
COPY serving serving
RUN --mount=type=cache,target=/var/cache/pip python -m pip install --no-deps --force-reinstall .

FROM build AS build-training
# The usual torch brings 3 GB of CUDA. For CPUs alone name the index that pytorch.org gives for them:
# --build-arg TORCH_INDEX_URL=...
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/var/cache/pip \
    python -m pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} 'torch==2.13.0'
RUN --mount=type=cache,target=/var/cache/pip python -m pip install '.[train]'
COPY serving serving
COPY training training
RUN --mount=type=cache,target=/var/cache/pip python -m pip install --no-deps --force-reinstall .

FROM build AS build-load
RUN --mount=type=cache,target=/var/cache/pip python -m pip install '.[load]'
COPY serving serving
RUN --mount=type=cache,target=/var/cache/pip python -m pip install --no-deps --force-reinstall .

FROM base AS training
COPY --from=build-training /opt/unmix /opt/unmix
# What is written is written here, and caches to /tmp: the rest may be read-only.
ENV MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache
WORKDIR /unmix
RUN install --directory --owner=10001 --group=10001 runs my-models renders
COPY experiments/*.yaml experiments/
COPY models models
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m"]
CMD ["training.train", "--map", "3s5z"]

FROM base AS load
COPY --from=build-load /opt/unmix /opt/unmix
WORKDIR /unmix
COPY locustfile.py ./
USER 10001:10001
EXPOSE 8089
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["locust", "--locustfile", "/unmix/locustfile.py"]
CMD []

# What the service's two images share; it has no Python environment yet.
FROM base AS service
# Every address, or nobody outside the container would reach it. The service then wants TLS and
# credentials (or UNMIX_INSECURE=1 behind something that has both), and says so.
ENV UNMIX_HOST=0.0.0.0 UNMIX_MODELS=/models UNMIX_LOG_FORMAT=json
COPY models /models
USER 10001:10001
EXPOSE 8000 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-m", "serving.probe"]
ENTRYPOINT ["unmix-serve"]
CMD []

FROM service AS gpu
COPY --from=build-gpu /opt/unmix /opt/unmix
ENV UNMIX_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM service AS serving
COPY --from=build-serving /opt/unmix /opt/unmix
