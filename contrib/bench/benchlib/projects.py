# SPDX-License-Identifier: MIT
"""The applications that contrib/bench/scenarios builds images of."""

START = "start"  # the image they start from
TARGET = "/root/.cache/pip"

# As a company's own image: it knows the index. Without a trusted host, pip
# caches nothing that comes over http.
START_DOCKERFILE = """\
FROM {base}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_INDEX_URL={url} PIP_TRUSTED_HOST=127.0.0.1
"""

# Anything that changes in the project makes all packages be installed anew.
NAIVE = """\
FROM {start}
WORKDIR {workdir}
{tools}COPY . .
RUN pip install -r requirements.txt
CMD ["python", "app.py"]
"""

# Packages are a layer of their own, below the code.
LAYERED = """\
FROM {start}
WORKDIR {workdir}
{tools}COPY requirements.txt .
RUN {mount}pip install -r requirements.txt
COPY . .
CMD ["python", "app.py"]
"""

MULTI_STAGE = """\
FROM {start} AS build
WORKDIR {workdir}
{tools}COPY requirements.txt .
RUN {mount}pip install -r requirements.txt

FROM {base}
ENV PATH=/opt/venv/bin:$PATH
WORKDIR {workdir}
COPY --from=build /opt/venv /opt/venv
COPY . .
CMD ["python", "app.py"]
"""

APP = """\
import importlib.metadata

for found in importlib.metadata.distributions():
    print(found.metadata["Name"], found.version)
"""


def cache_mount(cache_id=None):
    """What makes of a RUN one with a cache mount."""
    more = f",id={cache_id}" if cache_id else ""
    return f"--mount=type=cache,target={TARGET}{more} "


class Project:
    """A directory with a Dockerfile, requirements and code.

    @template  one of the above
    @mount     see cache_mount()
    @tools     Debian packages that the build installs first
    """

    def __init__(self, where, base, template, requirements, mount="",
                 tools=()):
        self.where = where
        self.name = where.name
        install = ""
        if tools:
            install = ("RUN apt-get update && apt-get install -y "
                       f"--no-install-recommends {' '.join(tools)}\n")
        where.mkdir(parents=True)
        self._write("Dockerfile", template.format(
            base=base, start=START, workdir=f"/srv/{self.name}", mount=mount,
            tools=install))
        self._write("requirements.txt", "\n".join(requirements) + "\n")
        self._write("app.py", APP)

    def _write(self, name, text):
        (self.where / name).write_text(text, encoding="utf-8")

    def _append(self, name, line):
        with open(self.where / name, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def change_code(self):
        self._append("app.py", 'print("changed")')

    def add_package(self, requirement):
        self._append("requirements.txt", requirement)
