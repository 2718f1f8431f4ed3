"""Load, by tools that others wrote: wrk (saturating), h2load (HTTP/2, and fixed rates), openssl s_time (TLS handshakes)."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

from figures import percentile
from process import pinned

SCRIPT = pathlib.Path(__file__).parent / "request.lua"
HOST = "shop.example.com"
# The browser's fields, as in request.lua.
FIELDS = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-language": "en-GB,en;q=0.5",
    "accept-encoding": "gzip, deflate, br",
    "referer": "http://shop.example.com/catalogue/list",
    "cookie": "session=4f1c2a9be07d46d0a1b2c3d4e5f60718; theme=dark",
}
CIPHER = "TLS_AES_128_GCM_SHA256"


class Failed(Exception):
    """A run with errors in it, whose figures mean nothing."""


def wrk(url, seconds, connections, core=None, hosts=0, post=0, close=False, env=None):
    """A closed loop, as fast as it goes: requests, octets, seconds, latencies in microseconds.

    With `hosts` it asks for host-0.example.com and so on in turn."""
    command = [*pinned(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", SCRIPT, url]
    settings = {"BENCH_HOSTS": str(hosts), "BENCH_POST": str(post), "BENCH_CLOSE": "1" if close else ""}
    out = run(command, seconds + 20, env={**os.environ, **settings, **(env or {})})
    found = re.search(r"^RESULT (.*)$", out, re.M)
    if not found:
        raise Failed(f"wrk said no result: {out[-300:]}")
    result = json.loads(found[1])
    few(result["errors"], result["requests"])
    return {
        "failed": result["errors"],
        "requests": result["requests"],
        "octets": result["bytes"],
        "seconds": result["micros"] / 1e6,
        "p50": result["p50"],
        "p99": result["p99"],
        "p999": result["p999"],
    }


def paced(url, seconds, connections, rate, core=None, authority=HOST):
    """HTTP/1.1 at a fixed rate; a late answer delays only its own connection's next requests, which then catch up."""
    options, asked = pace(seconds, connections, rate)
    summary, log = h2load(url, options, seconds + 30, core, authority)
    lasted = (max(start + took for start, _, took in log) - min(start for start, _, _ in log)) / 1e6
    # The last connection to start is the last to end.
    return summary | {"seconds": lasted - connections / 1e3, "asked": asked}


def paced_log(url, seconds, connections, rate, core=None):
    """The same, as the wall time in seconds when each request was sent and the microseconds to the end of its answer."""
    _, log = h2load(url, pace(seconds, connections, rate)[0], seconds + 30, core)
    return [(start / 1e6, took) for start, _, took in log]


def pace(seconds, connections, rate):
    """h2load's options for a rate, and the rate as it divides among the connections."""
    each = max(1, round(rate / connections))
    # Connections start one a millisecond, or their requests would all come in the same instants.
    options = ["--h1", "-n", str(each * connections * seconds), "-c", str(connections), "--rps", str(each)]
    return options + ["-r", "1", "--rate-period", "1ms"], each * connections


def h2(url, seconds, connections, streams, core=None, authority=HOST, post=None, fields=None):
    """HTTP/2 in a closed loop of so many streams on each connection."""
    options = ["-c", str(connections), "-m", str(streams)] + (["-d", post] if post else [])
    # By number, since h2load may hang at the end of a duration: a short run tells how many fit.
    few = 20 * connections * streams
    began = time.monotonic()
    first, _ = h2load(url, [*options, "-n", str(few)], seconds + 30, core, authority, fields)
    lasted = time.monotonic() - began
    many = max(few, round(few / lasted * (seconds - lasted)))
    began = time.monotonic()
    second, _ = h2load(url, [*options, "-n", str(many)], 3 * seconds + 30, core, authority, fields)
    lasted += time.monotonic() - began
    return second | {key: first[key] + second[key] for key in ("requests", "failed", "octets")} | {"seconds": lasted, "asked": None}


def h2load(url, options, patience, core=None, authority=HOST, fields=None):
    fields = {":authority": authority, **(FIELDS if fields is None else fields)}
    with tempfile.NamedTemporaryFile(prefix="h2load-") as log:
        command = [*pinned(core), "h2load", *options, "--tls13-ciphers", CIPHER, "--groups", "X25519", "--log-file", log.name]
        for name, value in fields.items():
            command += ["-H", f"{name}: {value}"]
        out = run([*command, url], patience)
        # Start in microseconds, status, microseconds to the end of the answer.
        lines = [tuple(map(int, line.split())) for line in log if line.count(b"\t") == 2]
    done = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out)
    octets = re.search(r"traffic: .*?\((\d+)\) total,.*\((\d+)\) data", out)
    if not done or not octets:
        raise Failed(f"h2load said no result: {out[-300:]}")
    succeeded, *bad = map(int, done.groups())
    good = int(re.search(r"status codes: (\d+) 2xx", out)[1])
    failed = sum(bad) + succeeded - good
    few(failed, succeeded)
    took = sorted(latency for _, status, latency in lines if status == 200)
    return {
        "failed": failed,
        "requests": succeeded,
        "octets": int(octets[2]),
        "p50": percentile(took, 0.5),
        "p99": percentile(took, 0.99),
        "p999": percentile(took, 0.999),
        "most": took[-1],
    }, lines


def handshakes(port, seconds, clients, core=None):
    """Full TLS 1.3 handshakes, each with one request on its connection (openssl s_time, which resumes nothing)."""
    # s_time writes `GET %s HTTP/1.0`; what follows the target here makes a plain HTTP/1.1 request of it.
    target = f"/ HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX-Rest:"
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", str(seconds), "-tls1_3"]
    command = [*pinned(core), *command, "-ciphersuites", CIPHER, "-www", target]
    began = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(clients)]
    try:
        outs = [child.communicate(timeout=seconds + 30)[0] for child in running]
        lasted = time.monotonic() - began
    finally:
        for child in running:
            child.kill()
            child.wait()
    total, octets = 0, 0
    for out in outs:
        found = re.search(r"^(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", out, re.M)
        if not found:
            raise Failed(f"s_time said no result: {out.strip()[-200:]}")
        total += int(found[1])
        octets += int(found[1]) * int(found[2])
    few(0, total)
    return {"failed": 0, "requests": total, "octets": octets, "seconds": lasted, "p50": None, "p99": None, "p999": None}


def few(failed, requests):
    """A failure in a thousand is told beside the figures; more make them worthless."""
    if not requests or failed * 1000 > requests:
        raise Failed(f"{failed} of {requests + failed} requests failed")


def run(command, patience, env=None):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=env)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not end within {patience} s") from None
    return done.stdout + done.stderr
