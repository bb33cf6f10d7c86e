# SPDX-License-Identifier: MIT
"""Files written into a directory the way pip writes them into its cache."""
import hashlib
import os
import shutil
import struct
import tempfile


def key(path):
    """The name pip would give to what came from a URL that ends in @path."""
    url = f"https://files.pythonhosted.org/packages/{path.name}"
    return hashlib.sha224(url.encode()).hexdigest()


def body_path(top, path):
    name = key(path)
    return os.path.join(top, "http-v2", *name[:5], name + ".body")


def _pack(value):
    """@value in MessagePack, as far as headers need it."""
    if isinstance(value, dict):
        return struct.pack(">BH", 0xde, len(value)) + b"".join(
            _pack(k) + _pack(v) for k, v in value.items())
    if isinstance(value, bytes):
        return struct.pack(">BH", 0xc5, len(value)) + value
    if isinstance(value, str):
        return struct.pack(">BH", 0xda, len(value.encode())) + value.encode()
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    return struct.pack(">BH", 0xcd, value)


def header(path):
    """What pip keeps beside a body: the response without it, 1.2 KB."""
    digest = hashlib.sha256(path.name.encode()).hexdigest()
    project, version = path.name.split("-")[:2]
    wheel = path.suffix == ".whl"
    fields = {
        "Connection": "keep-alive",
        "Content-Length": str(path.stat().st_size),
        "Content-Type": "application/octet-stream",
        "Cache-Control": "max-age=365000000, immutable, public",
        "ETag": f'"{digest[:32]}"',
        "Last-Modified": "Tue, 04 Mar 2025 19:31:22 GMT",
        "Server": "server", "Accept-Ranges": "bytes",
        "x-amz-checksum": digest, "x-amz-request-id": digest[32:48].upper(),
        "X-PyPI-File-Project": project, "X-PyPI-File-Version": version,
        "X-PyPI-File-Package-Type": "bdist_wheel" if wheel else "sdist",
        "X-PyPI-File-Python-Version":
            path.stem.split("-")[-3] if wheel else "source",
        "X-Robots-Tag": "noindex", "X-XSS-Protection": "1; mode=block",
        "X-Frame-Options": "deny", "X-Content-Type-Options": "nosniff",
        "Strict-Transport-Security":
            "max-age=31536000; includeSubDomains; preload",
        "X-Permitted-Cross-Domain-Policies": "none",
        "X-Served-By": "cache-a-1, cache-b-2", "X-Cache": "HIT, HIT",
        "X-Timer": "S1741116682.111111,VS0,VE1", "Age": "86400",
        "Date": "Tue, 24 Nov 2026 12:00:00 GMT",
    }
    return b"cc=4," + _pack({
        "response": {"body": b"", "headers": fields, "status": 200,
                     "version": 11, "reason": "OK", "decode_content": False},
        "vary": {}})


def _store(where, name, write):
    """Temporary file, the bytes, fsync, rename."""
    os.makedirs(where, exist_ok=True)
    fd, new = tempfile.mkstemp(".tmp", name, where)
    with os.fdopen(fd, "wb", buffering=0) as file:
        os.fchmod(fd, 0o644)
        write(file)
        os.fsync(fd)
    os.rename(new, os.path.join(where, name))


def store(top, path):
    """Cache the file @path under @top: header first, then the body."""
    name = key(path)
    where = os.path.join(top, "http-v2", *name[:5])
    _store(where, name, lambda file: file.write(header(path)))
    with open(path, "rb", buffering=0) as source:
        _store(where, name + ".body",
               lambda file: shutil.copyfileobj(source, file, 1 << 20))


def sha256(path):
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def on_disk(top):
    """Bytes of disk that @top takes, as du tells them."""
    seen, total = set(), 0
    for where, _, names in os.walk(top):
        for path in [where] + [os.path.join(where, name) for name in names]:
            try:
                stat = os.lstat(path)
            except FileNotFoundError:
                continue
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_blocks * 512
    return total
