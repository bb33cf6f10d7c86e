# SPDX-License-Identifier: MIT
# The image of kubernetes-daemonset.yaml: contrib/packaging/deb builds the
# package.
FROM debian:12-slim
COPY pipcachefs_*.deb /tmp/
RUN apt-get update \
 && apt-get install -y --no-install-recommends /tmp/pipcachefs_*.deb \
 && rm -rf /tmp/pipcachefs_*.deb /var/lib/apt/lists/*
