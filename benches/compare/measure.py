"""What is measured: CPU time per request under load, memory with idle connections, and the time of a flip."""

import http.client
import json
import pathlib
import resource
import socket
import statistics
import subprocess
import threading
import time

SCRIPT = pathlib.Path(__file__).parent / "request.lua"
REQUEST = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"


def load(process, seconds, connections, core):
    """One run of wrk: microseconds of the proxy's CPU per request, requests a second, latencies in microseconds."""
    url = f"http://127.0.0.1:{process.port}/"
    wrk = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", SCRIPT, url]
    before = process.cpu_seconds()
    out = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    used = process.cpu_seconds() - before
    result = json.loads(out.split("RESULT ")[1])
    if result["errors"]:
        raise SystemExit(f"{process.name}: {result['errors']} errors under load:\n{out}")
    return {
        "cpu": used * 1e6 / result["requests"],
        "rate": result["requests"] * 1e6 / result["micros"],
        "p50": result["p50"],
        "p99": result["p99"],
    }


def memory(process, connections):
    """Resident and proportional size in KiB, with no connection and with so many idle ones, each of which made a request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, connections + 1000)), hard))
    ask(process.port).close()
    empty = process.memory()
    clients = [ask(process.port) for _ in range(connections)]
    full = process.memory()
    for client in clients:
        client.close()
    return empty, full


def ask(port):
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(REQUEST)
    if not client.recv(65536).startswith(b"HTTP/1.1 200"):
        raise SystemExit("an idle connection's first request was not answered with 200")
    return client


class Admin(http.client.HTTPConnection):
    """The admin API over its Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def act(self, action):
        self.request("POST", f"/api/v1/apps/shop/{action}", "{}", {"Content-Type": "application/json"})
        response = self.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise SystemExit(f"{action}: {response.status} {answer}")
        return answer


def flips(process, directory, count):
    """Milliseconds from asking for a flip to its answer, and to the first answer that the new pool gave."""
    admin = Admin(f"{directory}/admin.sock")
    wait_until_ready(admin)
    seen = Poller(process.port)
    answered, first, barrier = [], [], []
    try:
        for n in range(count):
            asked = time.monotonic()
            receipt = admin.act("rollback" if n % 2 else "promote")
            answered.append((time.monotonic() - asked) * 1e3)
            first.append((seen.first(receipt["to"], asked) - asked) * 1e3)
            barrier.append(receipt["barrierMicros"] / 1e3)
    finally:
        seen.stop()
    return answered, first, barrier


def wait_until_ready(admin):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        admin.request("GET", "/api/v1/apps/shop")
        state = json.loads(admin.getresponse().read())
        if state["phase"] == "previewing":
            return
        time.sleep(0.05)
    raise SystemExit("the preview did not become ready")


class Poller(threading.Thread):
    """Asks without pause on one connection, and notes when each colour first answered after another."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.running, self.changed = port, True, threading.Condition()
        self.colour, self.since = None, 0.0
        self.start()

    def run(self):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while self.running:
            sent = time.monotonic()
            client.request("GET", "/")
            response = client.getresponse()
            response.read()
            colour = response.headers["X-Colour"]
            if colour != self.colour:
                with self.changed:
                    self.colour, self.since = colour, time.monotonic()
                    self.changed.notify_all()
            time.sleep(max(0.0, 0.0002 - (time.monotonic() - sent)))

    def first(self, colour, after):
        with self.changed:
            if not self.changed.wait_for(lambda: self.colour == colour and self.since > after, 30):
                raise SystemExit(f"no answer from {colour} within 30 s of the flip")
            return self.since

    def stop(self):
        self.running = False
        self.join()


def spread(values, digits=1):
    """The median and the range it lies in."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"
