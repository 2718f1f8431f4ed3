"""Flips: what a client sees while a proxy is switched to and fro, and whether Tealgate's latency has a cliff there."""

import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import load
from figures import percentile
from process import pinned
from switches import SWITCHES

HERE = pathlib.Path(__file__).parent
# How long after the command a request's latency still counts as the flip's.
NEAR = 0.5


def flips(field, name, count, pause):
    """Switches one proxy so many times under a steady load, and sums up what was seen."""
    proxy = field.proxy(name, flip=True)
    try:
        switch = SWITCHES[name](field, proxy)
        switch.prepare()
        with Watcher(field, proxy.port) as watcher:
            time.sleep(3)
            moments = perform(switch, count, pause)
            time.sleep(1.5)
            saw = watcher.stop()
    finally:
        field.end(proxy)
    return summary(saw, moments) | {"word": switch.word, "barriers": getattr(switch, "barriers", None)}


def perform(switch, count, pause):
    """When each flip was asked for and acknowledged, and to which colour."""
    moments = []
    for n in range(count):
        colour = "blue" if n % 2 else "green"
        asked, wall = time.monotonic(), time.time()
        switch.to(colour)
        moments.append({"asked": asked, "acked": time.monotonic(), "to": colour, "wall": wall})
        time.sleep(pause)
    return moments


def summary(saw, moments):
    seen = sorted(saw["seen"])
    first_flip = moments[0]["asked"]
    quiet = sorted((end - sent) * 1e3 for sent, end, _, error, _ in seen if not error and end < first_flip)
    near = [(end - sent) * 1e3 for sent, end, _, _, _ in seen if any(m["asked"] - 0.01 <= sent <= m["asked"] + NEAR for m in moments)]
    firsts, stale, late = [], 0, 0.0
    for moment, following in zip(moments, moments[1:] + [{"asked": float("inf")}]):
        of_new = [end for sent, end, colour, _, _ in seen if colour == moment["to"] and moment["asked"] < end]
        firsts.append((min(of_new) - moment["asked"]) * 1e3 if of_new else float("inf"))
        # Sent after the acknowledgement, before the next flip was asked for, and yet answered by the old pool.
        olds = [sent for sent, end, colour, _, _ in seen if moment["acked"] < sent and end < following["asked"] and colour not in (moment["to"], None)]
        stale += len(olds)
        late = max([late] + [(sent - moment["acked"]) * 1e3 for sent in olds])
    errors = {}
    for _, _, _, error, fresh in seen:
        if error:
            key = f"{error}, {'new' if fresh else 'kept'} connection"
            errors[key] = errors.get(key, 0) + 1
    broken = {kind: sum(1 for s in saw["streams"] if s["tunnel"] == (kind == "tunnels") and s["broken"]) for kind in ("events", "tunnels")}
    return {
        "requests": len(seen),
        "failed": sum(errors.values()),
        "errors": errors,
        "stale": stale,
        "stale_ms": late,
        "ack_ms": [(m["acked"] - m["asked"]) * 1e3 for m in moments],
        "first_ms": firsts,
        "quiet_p99_ms": percentile(quiet, 0.99),
        "worst_ms": max(near),
        "broken": broken,
        "held": len(saw["streams"]) // 2,
        "reconnects": saw["reconnects"],
    }


def cliff(field, count, pause, rate, connections):
    """Tealgate's latency in 10 ms windows around flips, beside as many windows of a quiet time in the same run."""
    proxy = field.proxy("tealgate", flip=True)
    try:
        switch = SWITCHES["tealgate"](field, proxy)
        switch.prepare()
        # The quiet time is as long as the flips'.
        length = (count + 1) * pause
        moments = []

        def flip_later():
            time.sleep(length)
            moments.extend(perform(switch, count, pause))

        flipping = threading.Thread(target=flip_later, daemon=True)
        flipping.start()
        log = load.paced_log(f"http://127.0.0.1:{proxy.port}/", round(2 * length + 1), connections, rate, field.load_core)
        flipping.join()
    finally:
        field.end(proxy)
    first = moments[0]["wall"]
    start = min(sent for sent, _ in log)
    around = [m["wall"] for m in moments]
    quiet = sorted(took for sent, took in log if start + 0.5 < sent < first - 0.1)
    # The same places, as long before the first flip as these are after it.
    before = [first - 0.5 - (wall - first) for wall in around if first - 0.5 - (wall - first) > start + 0.6]
    return {
        "requests": len(log),
        "rate": rate,
        "quiet_p99_us": percentile(quiet, 0.99),
        "flips": windows(log, around),
        "quiet": windows(log, before),
    }


def windows(log, moments):
    """The worst mean of a 10 ms window from 20 ms before to 100 ms after each moment, and the p99 of all requests in them."""
    means, all_in = [], []
    for moment in moments:
        for n in range(-2, 10):
            inside = [took for sent, took in log if moment + n * 0.01 <= sent < moment + (n + 1) * 0.01]
            all_in += inside
            if len(inside) >= 5:
                means.append(statistics.mean(inside))
    if not means:
        return {"worst_mean_us": None, "p99_us": None, "windows": 0}
    return {"worst_mean_us": max(means), "p99_us": percentile(sorted(all_in), 0.99), "windows": len(means)}


class Watcher:
    """`watch.py` as a process, which must have begun before anything is flipped."""

    def __init__(self, field, port):
        self.file = field.dir / "watch.json"
        command = [*pinned(field.load_core), sys.executable, HERE / "watch.py", str(port), self.file]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def __enter__(self):
        line = self.child.stdout.readline().strip()
        if line != "watching":
            self.__exit__()
            raise load.Failed(f"the watch did not begin: {line}")
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()

    def stop(self):
        self.child.stdin.close()
        if self.child.wait(30):
            raise load.Failed(f"the watch failed: {self.child.stdout.read()[-500:]}")
        return json.loads(self.file.read_text())
