# One image for core, notify and web. Built in two stages: no compiler and no cache in the result. Runs as a user without rights on a
# read-only root: only /data is written.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fieldloom
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN /opt/fieldloom/bin/pip install --require-hashes -r requirements.lock
COPY . .
RUN /opt/fieldloom/bin/pip install --no-deps --no-build-isolation . \
    && cp -r sites /opt/fieldloom/sites \
    && NUMBA_CACHE_DIR=/opt/fieldloom/kernels /opt/fieldloom/bin/fieldloom warm

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin fieldloom && install -d -o fieldloom -g fieldloom /data
COPY --from=build /opt/fieldloom /opt/fieldloom
ENV PATH=/opt/fieldloom/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/opt/fieldloom/kernels \
    FIELDLOOM_DATA_DIR=/data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["fieldloom", "doctor"]
ENTRYPOINT ["fieldloom"]
CMD ["serve", "core"]
