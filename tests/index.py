#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A small package index on 127.0.0.1, serving a directory of wheels and sdists.

It speaks what pip speaks to PyPI: project pages as JSON (PEP 691) or HTML
(PEP 503) by the Accept header, sha256 hashes, metadata files (PEP 658), and
the headers that decide what pip may cache: ETag, Cache-Control, Vary and
X-PyPI-File-*. A request for what the client already has is answered 304.

    tests/index.py --dir WHEELDIR [--port N] [--log FILE] [--tls] [--rate R]

The first line printed is `listening on URL`, where URL is what pip takes as
--index-url. In a test: `with Index(directory) as index: ... index.url`, and
`index.requests` holds what was asked for.
"""

import argparse
import email.parser
import hashlib
import html
import http.server
import json
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse
import zipfile

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
PIECE = 1 << 18


def normalize(name):
    """The one spelling of a project's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Dist:
    """One wheel or sdist: its bytes stay on disk, its facts are kept here."""

    def __init__(self, path):
        self.path = path
        self.size = path.stat().st_size
        digest, md5 = hashlib.sha256(), hashlib.md5()
        with path.open("rb") as f:
            for piece in iter(lambda: f.read(PIECE), b""):
                digest.update(piece)
                md5.update(piece)
        self.sha256, self.etag = digest.hexdigest(), f'"{md5.hexdigest()}"'
        self.is_wheel = path.suffix == ".whl"
        if self.is_wheel:
            project, self.version, *_, python, _, _ = path.stem.split("-")
            self.python = python
            self.metadata = self._wheel_metadata()
            facts = self.metadata
        else:
            stem = re.sub(r"\.(tar\.gz|zip)$", "", path.name)
            project, _, self.version = stem.rpartition("-")
            self.python = "source"
            self.metadata = None
            facts = self._sdist_metadata()
        self.project = normalize(project)
        message = email.parser.BytesHeaderParser().parsebytes(facts)
        self.requires_python = message.get("Requires-Python")

    def _wheel_metadata(self):
        with zipfile.ZipFile(self.path) as z:
            for name in z.namelist():
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                    return z.read(name)
        raise ValueError(f"{self.path}: no .dist-info/METADATA")

    def _sdist_metadata(self):
        """PKG-INFO of a .tar.gz; not every sdist has one."""
        if not tarfile.is_tarfile(self.path):
            return b""
        with tarfile.open(self.path) as t:
            for member in t:
                if re.fullmatch(r"[^/]+/PKG-INFO", member.name):
                    return t.extractfile(member).read()
        return b""

    def headers(self):
        kind = "bdist_wheel" if self.is_wheel else "sdist"
        return {
            "Content-Type": "application/octet-stream",
            "ETag": self.etag,
            "Cache-Control": "max-age=365000000, immutable, public",
            "X-PyPI-File-Project": self.project,
            "X-PyPI-File-Version": self.version,
            "X-PyPI-File-Package-Type": kind,
            "X-PyPI-File-Python-Version": self.python,
        }

    def describe(self):
        """This file's entry in the JSON page of its project."""
        entry = {
            "filename": self.path.name,
            "url": f"/files/{self.path.name}",
            "hashes": {"sha256": self.sha256},
            "size": self.size,
            "requires-python": self.requires_python,
            "yanked": False,
        }
        if self.metadata is not None:
            entry["core-metadata"] = {"sha256": sha256(self.metadata)}
        return entry

    def anchor(self):
        """This file's line in the HTML page of its project."""
        extra = ""
        if self.requires_python:
            wanted = html.escape(self.requires_python)
            extra += f' data-requires-python="{wanted}"'
        if self.metadata is not None:
            extra += f' data-core-metadata="sha256={sha256(self.metadata)}"'
        name = html.escape(self.path.name)
        return (f'<a href="/files/{name}#sha256={self.sha256}"{extra}>'
                f"{name}</a><br>")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def bits_per_second(text):
    """The rate in @text, such as 35mbit, 500kbit or 1gbit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k|m|g)bit", text)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a rate such as 35mbit or 500kbit")
    return float(match[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[match[2]]


class Line:
    """A line of @rate bits a second that all connections share."""

    def __init__(self, rate):
        self._seconds_per_byte = 8 / rate
        self._lock = threading.Lock()
        self._free = 0.0  # when the line has sent all it was given

    def send(self, size):
        """Return when the line has room for @size bytes more."""
        with self._lock:
            begin = max(self._free, time.monotonic())
            self._free = begin + size * self._seconds_per_byte
            wait = self._free - time.monotonic()
        time.sleep(max(wait, 0))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection; `self.server.index` is the Index."""

    protocol_version = "HTTP/1.1"
    wbufsize = PIECE
    # Header and body go out in separate writes: without this each answer
    # waits for the client's delayed ACK.
    disable_nagle_algorithm = True

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.sent = 0
        status = self._answer(path)
        self.server.index.record(self.command, path, status, self.sent)

    do_HEAD = do_GET

    def _answer(self, path):
        index = self.server.index
        if path.startswith("/files/"):
            name = path[len("/files/"):]
            dist = index.files.get(name)
            if dist:
                return self._send(dist.path, dist.headers())
            dist = index.files.get(re.sub(r"\.metadata$", "", name))
            if dist and dist.metadata is not None:
                headers = dict(dist.headers())
                headers["ETag"] = f'"{sha256(dist.metadata)}"'
                return self._send(dist.metadata, headers)
        elif path in ("/simple", "/simple/"):
            return self._page(None)
        elif path.startswith("/simple/"):
            project = normalize(path.split("/")[2])
            if project in index.projects:
                return self._page(project)
        return self._send(b"not here\n", {"Content-Type": "text/plain"}, 404)

    def _page(self, project):
        """A project's page, or the list of projects."""
        index = self.server.index
        accept = self.headers.get("Accept", "")
        if JSON_TYPE in accept:
            kind, body = JSON_TYPE, index.page_json(project)
        else:
            kind = HTML_TYPE if HTML_TYPE in accept else "text/html"
            body = index.page_html(project)
        return self._send(body.encode(), {
            "Content-Type": kind,
            "ETag": f'"{sha256(body.encode())[:32]}"',
            "Cache-Control": "max-age=600, public",
            "Vary": "Accept, Accept-Encoding",
        })

    def _send(self, body, headers, status=200):
        """Send bytes or the file at a Path; 304 where the client has it."""
        index = self.server.index
        if not index.cacheable:
            for name in ("ETag", "Cache-Control"):
                headers.pop(name, None)
        is_file = isinstance(body, pathlib.Path)
        size = body.stat().st_size if is_file else len(body)
        asked = self.headers.get("If-None-Match", "")
        etags = [e.strip().removeprefix("W/") for e in asked.split(",")]
        if headers.get("ETag") in etags:
            status = 304
            headers.pop("Content-Type", None)
        else:
            headers["Content-Length"] = str(size)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if status == 304 or self.command == "HEAD":
            return status
        if not is_file:
            self._write(body)
            return status
        with body.open("rb") as f:
            for piece in iter(lambda: f.read(PIECE), b""):
                self._write(piece)
        return status

    def _write(self, piece):
        if self.server.index.line:
            self.server.index.line.send(len(piece))
        self.wfile.write(piece)
        self.sent += len(piece)

    def log_message(self, *_):
        """Silent: the request log is the index's."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, index):
        self.index = index
        super().__init__(address, Handler)

    def get_request(self):
        """The TLS handshake waits for the connection's own thread."""
        request, address = super().get_request()
        if self.index.tls:
            request = self.index.tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False)
        return request, address

    def handle_error(self, request, client_address):
        """A client that went away is its own business; all else is shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


class Index:
    """The index of the files in @directory; serves between start and stop.

    @log        JSON lines are appended to it: method, path, status, bytes
    @tls        serve https with a fresh certificate, whose file is `cert`
    @cacheable  False: send neither ETag nor Cache-Control, as some mirrors
    @rate       bits a second for all bodies together; None: no bound
    """

    def __init__(self, directory, port=0, log=None, tls=False, cacheable=True,
                 rate=None):
        self.cacheable = cacheable
        self.line = Line(rate) if rate else None
        self.requests = []
        self._lock = threading.Lock()
        self._log = open(log, "a", encoding="utf-8") if log else None
        self.files = {}
        self.projects = {}
        for path in sorted(pathlib.Path(directory).iterdir()):
            if path.name.endswith((".whl", ".tar.gz", ".zip")):
                dist = Dist(path)
                self.files[path.name] = dist
                self.projects.setdefault(dist.project, []).append(dist)
        self._secrets = tempfile.TemporaryDirectory() if tls else None
        self.cert = self.tls = None
        if tls:
            self._make_certificate(pathlib.Path(self._secrets.name))
        self._server = Server(("127.0.0.1", port), self)
        self.port = self._server.server_address[1]
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/simple/"

    def _make_certificate(self, where):
        self.cert, key = where / "cert.pem", where / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
             "-days", "30", "-subj", "/CN=127.0.0.1", "-addext",
             "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:127.0.0.1",
             "-keyout", key, "-out", self.cert],
            check=True, capture_output=True)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.cert, key)

    def page_json(self, project):
        meta = {"api-version": "1.1"}
        if project is None:
            names = [{"name": name} for name in self.projects]
            return json.dumps({"meta": meta, "projects": names})
        dists = self.projects[project]
        return json.dumps({
            "meta": meta, "name": project,
            "versions": sorted({d.version for d in dists}),
            "files": [d.describe() for d in dists]})

    def page_html(self, project):
        if project is None:
            lines = [f'<a href="/simple/{n}/">{n}</a><br>'
                     for n in self.projects]
        else:
            lines = [d.anchor() for d in self.projects[project]]
        return ("<!DOCTYPE html>\n<html><head><meta name="
                '"pypi:repository-version" content="1.1"></head><body>\n'
                + "\n".join(lines) + "\n</body></html>\n")

    def record(self, method, path, status, sent):
        line = {"method": method, "path": path, "status": status,
                "bytes": sent}
        with self._lock:
            self.requests.append(line)
            if self._log:
                self._log.write(json.dumps(line) + "\n")
                self._log.flush()

    def serve_forever(self):
        self._server.serve_forever(poll_interval=0.1)

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self.close()

    def close(self):
        self._server.server_close()
        if self._log:
            self._log.close()
        if self._secrets:
            self._secrets.cleanup()


def main():
    parser = argparse.ArgumentParser(
        description="Serve a directory of wheels and sdists as a package "
        "index on 127.0.0.1, with the headers that let pip cache them.")
    parser.add_argument("--dir", required=True, metavar="WHEELDIR",
                        help="directory that holds the files")
    parser.add_argument("--port", type=int, default=0,
                        help="port to listen on (default: any free one)")
    parser.add_argument("--log", metavar="FILE",
                        help="append one JSON line per request")
    parser.add_argument("--tls", action="store_true",
                        help="https with a certificate of its own; the second "
                        "line printed names its file (for pip's --cert)")
    parser.add_argument("--no-cache-headers", action="store_true",
                        help="send neither ETag nor Cache-Control")
    parser.add_argument("--rate", type=bits_per_second, metavar="RATE",
                        help="send so much at most, all connections "
                        "together, e.g. 35mbit")
    args = parser.parse_args()
    try:
        index = Index(args.dir, args.port, args.log, args.tls,
                      not args.no_cache_headers, args.rate)
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        sys.exit(f"index.py: {e}")
    print(f"listening on {index.url}", flush=True)
    if index.cert:
        print(f"certificate {index.cert}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        index.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        index.close()


if __name__ == "__main__":
    main()
