"""HTTP over a Unix socket, for the admin APIs."""

import http.client
import socket


class OverUnix(http.client.HTTPConnection):
    """A connection to the socket at `path`; `patience` is in seconds."""

    def __init__(self, path, patience=30):
        super().__init__("localhost", timeout=patience)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
