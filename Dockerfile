# One image for core, notify and web. Built in two stages: no compiler and no cache in the result. Runs as a user without rights on a
# read-only root: only /data and /tmp are written.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fieldloom
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN /opt/fieldloom/bin/pip install --require-hashes -r requirements.lock
COPY . .
RUN /opt/fieldloom/bin/pip install --no-deps --no-build-isolation . \
    && NUMBA_CACHE_DIR=/opt/fieldloom/kernels /opt/fieldloom/bin/fieldloom warm

FROM ${PYTHON_IMAGE}
# /mosquitto/data: the broker's volume, where `fieldloom broker` writes as user 1883, Mosquitto's in its own image.
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin fieldloom \
    && install -d -o fieldloom -g fieldloom /data && install -d -o 1883 -g 1883 /mosquitto/data
COPY --from=build /opt/fieldloom /opt/fieldloom
ENV PATH=/opt/fieldloom/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/kernels \
    FIELDLOOM_DATA_DIR=/data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["fieldloom", "doctor"]
# numba uses compiled kernels only where it could write new ones: without the copy core would compile for one to two minutes at each start.
ENTRYPOINT ["/bin/sh", "-c", "cp -r /opt/fieldloom/kernels \"$NUMBA_CACHE_DIR\"; exec fieldloom \"$@\"", "fieldloom"]
CMD ["serve", "core"]
