"""Memory: with no connection, with idle ones (plain and TLS), and with clients that read large bodies slowly."""

import contextlib
import socket
import ssl
import time

from load import HOST

REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
LARGE = f"GET /100m HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def idle(proxy, count, tls):
    """KiB with no connection and with so many, each of which has made one request; and octets (PSS) for each connection."""
    port = proxy.ports["tls"] if tls else proxy.port
    connect = tls_client if tls else plain_client
    with contextlib.ExitStack() as clients:
        for _ in range(10):
            answered(clients.enter_context(connect(port)))
        rss, pss = settled(proxy)
        for _ in range(count):
            answered(clients.enter_context(connect(port)))
        rss_idle, pss_idle = settled(proxy)
    return {"rss": rss, "pss": pss, "rss_idle": rss_idle, "pss_idle": pss_idle, "each": (pss_idle - pss) * 1024 / count}


def slow(proxy, count, seconds):
    """KiB before and while so many clients take a KiB a second of a body of 100 MiB each, and the growth for each."""
    rss, pss = settled(proxy)
    peak = 0
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(reader(proxy.port)) for _ in range(count)]
        for _ in range(seconds):
            began = time.monotonic()
            for client in readers:
                if not client.recv(1024):
                    raise SystemExit(f"{proxy.name} cut a slow reader off")
            peak = max(peak, proxy.memory()[1])
            time.sleep(max(0.0, 1 - (time.monotonic() - began)))
        rss_slow, pss_slow = proxy.memory()
    peak = max(peak, pss_slow)
    return {"rss": rss, "pss": pss, "rss_slow": rss_slow, "pss_slow": peak, "each": (peak - pss) * 1024 / count}


def settled(proxy):
    """What it holds half a second later, when what was freed has been given back or never will be."""
    time.sleep(0.5)
    return proxy.memory()


def plain_client(port):
    return socket.create_connection(("127.0.0.1", port), 10)


def tls_client(port):
    return CLIENT.wrap_socket(plain_client(port), server_hostname=HOST)


def reader(port):
    """A client with a small receive buffer, so that the proxy soon cannot send, which has the head of its answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    client.sendall(LARGE)
    if not client.recv(512).startswith(b"HTTP/1.1 200"):
        raise SystemExit("a slow reader's request was not answered with 200")
    return client


def answered(client):
    client.sendall(REQUEST)
    if not client.recv(65536).startswith(b"HTTP/1.1 200"):
        raise SystemExit("an idle connection's first request was not answered with 200")


CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT.check_hostname, CLIENT.verify_mode = False, ssl.CERT_NONE
