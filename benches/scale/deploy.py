"""Deploys over and over through the admin API, so that snapshots are built all the time."""

import contextlib
import json
import threading
import time
from http.client import HTTPException

import load
from over_unix import OverUnix


class Deployer(threading.Thread):
    """Puts a candidate of ever other endpoints, so that each makes another snapshot: so many a second, or as many as are answered."""

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
            raise load.Failed(f"a deploy failed: {self.trouble}")

    def run(self):
        try:
            with contextlib.closing(OverUnix(self.path, self.patience)) as admin:
                while self.going and self.done != self.most:
                    began = time.monotonic()
                    self.deploy(admin)
                    time.sleep(max(0.0, self.period - (time.monotonic() - began)))
        except (OSError, HTTPException, RuntimeError) as error:
            self.trouble = error

    def deploy(self, admin):
        endpoints = [f"{address(n)}:{self.port}" for n in range(self.done % 2, self.candidates + self.done % 2)]
        admin.request("PUT", "/api/v1/apps/app-0/revisions/green", json.dumps({"endpoints": endpoints}), {"Content-Type": "application/json"})
        response = admin.getresponse()
        said = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {said[:300]}")
        self.done += 1


def address(n):
    """Of the nth endpoint."""
    return f"127.77.{n // 250}.{n % 250 + 1}"
