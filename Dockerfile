# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.txt .
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --requirement requirements.txt

FROM python:3.11-slim-bookworm AS base

# Debian keeps one version of Chromium, and its driver must be of that very version: a pin would only break the build.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium chromium-driver fonts-liberation tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --create-home --shell /usr/sbin/nologin app \
    # A container gives Chromium no user namespaces, which its own sandbox needs; the container takes its place.
    && echo 'export CHROMIUM_FLAGS="$CHROMIUM_FLAGS --no-sandbox"' > /etc/chromium.d/container \
    && install --directory --owner=app --group=app --mode=0750 /data

WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY app ./app
COPY alembic ./alembic

# TOKEN_SPILL_FOLDER is a path, no secret.
# hadolint ignore=DL3064
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATABASE_URL=sqlite+aiosqlite:////data/gologin.db \
    TOKEN_SPILL_FOLDER=/data/spilled-tokens

USER 10001:10001
VOLUME /data
EXPOSE 8000

# Whether the process answers at all; /health/ready tells whether it can do its work.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=4)"]

# tini forwards SIGTERM and reaps what a killed Chromium leaves behind.
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "app", "serve"]

# The demo and the stand-ins it runs against.
FROM base AS sandbox
COPY sandbox ./sandbox

# Without them; the last stage is what `docker build .` makes.
FROM base AS runtime
