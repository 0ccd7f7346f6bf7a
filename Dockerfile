# Two stages: build a wheel and its dependencies, then copy only what runs.
# `make image-check` assembles and tries the same content without a Docker engine.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY deploy/image/slim.sh ./
COPY sidecar ./sidecar
RUN python -m venv /opt/sidecar \
 && /opt/sidecar/bin/pip install --no-cache-dir -c constraints.txt . \
 && (/opt/sidecar/bin/pip uninstall -y pip setuptools || true) \
 && sh slim.sh /opt/sidecar

FROM python:3.11-slim
# iptables is what `sidecar redirect` sets a pod's rules with.
RUN apt-get update && apt-get install -y --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sidecar /opt/sidecar
# State is the only thing written: mount a volume there; the rest may be read-only.
RUN useradd --uid 65532 --no-create-home --shell /usr/sbin/nologin sidecar \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/sidecar
ENV PATH=/opt/sidecar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib/sidecar
USER 65532:65532
VOLUME /var/lib/sidecar
EXPOSE 7400 7401 7443 7444 7480 7481 8443
ENTRYPOINT ["sidecar"]
CMD ["--help"]
