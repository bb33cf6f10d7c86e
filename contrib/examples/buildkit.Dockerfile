# SPDX-License-Identifier: MIT
# An ordinary Dockerfile with a cache mount, which needs no change:
#
#     pipcachefs attach docker /run/pipcachefs/pip
#
# on the host puts the mount under /root/.cache/pip, whatever id= is.
FROM python:3.12-slim
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -r requirements.txt
