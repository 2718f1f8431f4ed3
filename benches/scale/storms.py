"""Acts on apps through the admin API over and over, so that snapshots are built all the time."""

import contextlib
import json
import threading
import time
from http.client import HTTPException

import load
from over_unix import OverUnix


class Storm(threading.Thread):
    """Does the same thing so many times a second, or as often as it is answered."""

    def __init__(self, bench, proxy, options, most=None):
        super().__init__(daemon=True)
        self.path, self.port, self.patience = proxy.admin, bench.port, options.patience
        self.period, self.candidates, self.most = 1 / options.deploys, options.candidates, most
        self.done, self.going, self.trouble = 0, True, None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.going = False
        self.join()
        if self.trouble:
            raise load.Failed(f"an action failed: {self.trouble}")

    def run(self):
        try:
            with contextlib.closing(OverUnix(self.path, self.patience)) as admin:
                self.prepare(admin)
                while self.going and self.done != self.most:
                    began = time.monotonic()
                    self.act(admin)
                    self.done += 1
                    time.sleep(max(0.0, self.period - (time.monotonic() - began)))
        except (OSError, HTTPException, RuntimeError) as error:
            self.trouble = error

    def prepare(self, admin):
        pass

    def deploy(self, admin, app, endpoints):
        endpoints = [f"{address(n)}:{self.port}" for n in endpoints]
        self.call(admin, "PUT", f"/apps/{app}/revisions/green", {"endpoints": endpoints})

    def call(self, admin, method, path, body=None):
        fields = {"Content-Type": "application/json"} if body is not None else {}
        admin.request(method, f"/api/v1{path}", json.dumps(body) if body is not None else None, fields)
        response = admin.getresponse()
        said = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {said[:300]}")
        return json.loads(said)


class Deploys(Storm):
    """Puts a candidate of ever other endpoints, so that each makes another snapshot."""

    APP = "app-0"

    def act(self, admin):
        self.deploy(admin, self.APP, range(self.done % 2, self.candidates + self.done % 2))


class Flips(Storm):
    """Flips an app to and fro: another one than the load is for, where there are others."""

    def __init__(self, bench, proxy, options, app, most=None):
        super().__init__(bench, proxy, options, most)
        self.app = app

    def prepare(self, admin):
        if self.call(admin, "GET", f"/apps/{self.app}")["active"]["revision"] == "green":
            self.call(admin, "POST", f"/apps/{self.app}/rollback", {})
        self.deploy(admin, self.app, range(2))
        deadline = time.monotonic() + self.patience
        while self.call(admin, "GET", f"/apps/{self.app}")["phase"] != "previewing":
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.app} has no candidate that is ready")
            time.sleep(0.05)

    def act(self, admin):
        verb = "promote" if self.done % 2 == 0 else "rollback"
        self.call(admin, "POST", f"/apps/{self.app}/{verb}", {})


def address(n):
    """Of the nth endpoint."""
    return f"127.77.{n // 250}.{n % 250 + 1}"
