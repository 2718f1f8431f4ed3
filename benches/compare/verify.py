"""Does each proxy really do what its rows say? Asked before anything is measured: one wrong setting makes a table of nonsense."""

import http.client
import json
import re
import socket
import ssl
import subprocess

from field import GRPC_HOST
from load import HOST


class Wrong(Exception):
    """A proxy does something else than the table would say."""


def verify(proxy, field):
    """What was found, as facts for the report; raises `Wrong`."""
    facts = {}
    plain = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    facts["upstream connections for 60 requests"] = kept_alive(plain)
    bodies(plain)
    closes(proxy.port)
    facts["TLS"] = tls(proxy.ports["tls"])
    facts["h2"] = h2(f"https://127.0.0.1:{proxy.ports['tls']}/seen", HOST, "HTTP/1.1")
    if proxy.refusal:
        facts["gRPC"] = f"not supported: {proxy.refusal}"
    else:
        h2(f"http://127.0.0.1:{proxy.ports['grpc']}/seen", GRPC_HOST, "HTTP/2.0")
        facts["gRPC"] = grpc(f"http://127.0.0.1:{proxy.ports['grpc']}/shop.Shop/Get", field.dir / "grpc-request")
    return facts


def kept_alive(client):
    """Sixty requests: forwarded as they should be, spread over both endpoints, on upstream connections that stay."""
    seen = [json.loads(ask(client, "/seen")) for _ in range(60)]
    for one in seen:
        expect_forwarded(one, HOST, "HTTP/1.1")
    ports = [one["port"] for one in seen]
    if not 24 <= ports.count(ports[0]) <= 36:
        raise Wrong(f"not in turn over two endpoints: {ports.count(ports[0])} of 60 to one")
    connections = {one["connection"] for one in seen}
    if len(connections) > 8:
        raise Wrong(f"{len(connections)} upstream connections for 60 requests: not kept alive")
    return len(connections)


def bodies(client):
    for path, octets in [("/", 128), ("/16k", 16 << 10), ("/1m", 1 << 20)]:
        if (got := len(ask(client, path))) != octets:
            raise Wrong(f"{path}: {got} octets, not {octets}")
    if json.loads(ask(client, "/seen", b"x" * (16 << 10)))["length"] not in (str(16 << 10), ""):
        raise Wrong("the POST's length changed on the way")


def ask(client, path, body=None):
    client.request("POST" if body else "GET", path, body, {"Host": HOST})
    response = client.getresponse()
    content = response.read()
    if response.status != 200 or response.headers["X-Colour"] != "blue":
        raise Wrong(f"{path}: {response.status} from {response.headers['X-Colour']}: {content[:200]}")
    return content


def closes(port):
    """`Connection: close` ends the client's connection, not the upstream's."""
    found = set()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(f"GET /seen HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        found.add(re.search(rb'"connection":(\d+)', answer)[1])
    if len(found) > 10:
        raise Wrong(f"{len(found)} upstream connections for 20 client connections: not kept alive")


def tls(port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    expect_forwarded(json.loads(ask(client, "/seen")), HOST, "HTTP/1.1")
    cipher, version, _ = client.sock.cipher()
    if version != "TLSv1.3":
        raise Wrong(f"{version}, not TLS 1.3")
    return f"{version}, {cipher} of its own choice"


def h2(url, authority, upstream):
    """HTTP/2 from the client, and this towards the upstream."""
    out = nghttp([url, "-H", f":authority: {authority}"])
    expect_forwarded(json.loads(out[out.index("{"):out.rindex("}") + 1]), authority, upstream)
    return f"h2, {upstream} upstream"


def grpc(url, message):
    out = nghttp(["-v", "-d", message, "-H", f":authority: {GRPC_HOST}", "-H", "content-type: application/grpc", "-H", "te: trailers", url])
    if "grpc-status: 0" not in out:
        raise Wrong(f"no grpc-status came back: {out[-600:]}")
    return "h2 upstream, trailers pass"


def nghttp(arguments):
    done = subprocess.run(["nghttp", "--timeout=10", *map(str, arguments)], capture_output=True, text=True, timeout=20, errors="replace")
    if done.returncode or "{" not in done.stdout and "grpc-status" not in done.stdout:
        raise Wrong(f"no answer over HTTP/2: {(done.stdout + done.stderr)[-300:]}")
    return done.stdout


def expect_forwarded(seen, host, protocol):
    # Envoy writes the machine's own address where the client is on loopback.
    if not re.fullmatch(r"\d+(\.\d+){3}", seen["for"]):
        raise Wrong(f"X-Forwarded-For is {seen['for']!r}, not the client")
    if host not in seen["host"]:
        raise Wrong(f"Host became {seen['host']!r}")
    if seen["protocol"] != protocol:
        raise Wrong(f"asked over {seen['protocol']}, not {protocol}")
