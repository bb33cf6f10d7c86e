# SPDX-License-Identifier: MIT
"""Count what pip reads from the network, for contrib/quickstart.

A .pth file loads this into every Python process of a scratch environment. At
exit the process appends the bytes it received through sockets (HTTP headers
and bodies, after TLS) as one line to the file named by DOWNLOADED_LOG.
"""
import atexit
import os
import socket
import ssl

_received = 0


def _count(cls, method, size):
    original = getattr(cls, method)

    def counting(self, *args, **kwargs):
        global _received
        result = original(self, *args, **kwargs)
        _received += size(result)
        return result

    setattr(cls, method, counting)


def _report():
    if _received:
        with open(os.environ["DOWNLOADED_LOG"], "a", encoding="ascii") as log:
            log.write(f"{_received}\n")


if "DOWNLOADED_LOG" in os.environ:
    for _cls in (socket.socket, ssl.SSLSocket):
        _count(_cls, "recv_into", int)
        _count(_cls, "recv", len)
    atexit.register(_report)
