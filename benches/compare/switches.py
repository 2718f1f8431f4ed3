"""How each proxy is switched from one colour to the other: its own best way, and what it takes for an acknowledgement."""

import http.client
import json
import re
import socket
import subprocess
import time

from over_unix import OverUnix


class Switch:
    """One proxy's way. `to(colour)` returns when it has been acknowledged as `word` says."""

    word = ""

    def __init__(self, field, proxy):
        self.field, self.proxy = field, proxy

    def prepare(self):
        """Waits until the first switch can be made."""

    def to(self, colour):
        raise NotImplementedError

    def endpoints(self, colour):
        return {"one": self.field.settings[f"{colour}1"], "two": self.field.settings[f"{colour}2"]}


class Nginx(Switch):
    """A new configuration and a reload: new workers, and the old ones drain."""

    word = "`nginx -s reload` returned"

    def to(self, colour):
        directory = self.field.dir
        config = self.field.write("nginx.conf", self.proxy.ports | self.endpoints(colour))
        command = ["nginx", "-p", directory, "-e", directory / "nginx.log", "-c", config, "-s", "reload"]
        subprocess.run(command, check=True, capture_output=True)


class Haproxy(Switch):
    """A map entry changed through the runtime socket: atomic for every request."""

    word = "the socket answered `set map`"

    def to(self, colour):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.field.dir / "haproxy.sock"))
            client.sendall(f"set map {self.field.dir}/haproxy.map live {colour}\n".encode())
            said = client.recv(4096).strip()
        if said:
            raise SystemExit(f"HAProxy refused the switch: {said}")


class Envoy(Switch):
    """A route configuration moved into place (file xDS), as if a control plane had sent it."""

    word = "the statistics count the update"

    def prepare(self):
        self.admin = http.client.HTTPConnection("127.0.0.1", self.proxy.ports["admin"], timeout=10)

    def to(self, colour):
        before = self.updates()
        self.field.write("envoy-routes.yaml", {"colour": colour})
        wait_for("Envoy's update", lambda: self.updates() > before)

    def updates(self):
        self.admin.request("GET", "/stats?filter=http.live.rds.live.update_success")
        return int(re.search(rb": (\d+)", self.admin.getresponse().read())[1])


class Traefik(Switch):
    """The file provider's file moved into place."""

    word = "the API shows the route changed"

    def prepare(self):
        self.admin = http.client.HTTPConnection("127.0.0.1", self.proxy.ports["admin"], timeout=10)

    def to(self, colour):
        self.field.write("traefik-routes.yaml", self.proxy.ports | {"colour": colour})
        wait_for("Traefik's update", lambda: self.service() == colour)

    def service(self):
        self.admin.request("GET", "/api/http/routers/live@file")
        return json.loads(self.admin.getresponse().read())["service"].partition("@")[0]


class Caddy(Switch):
    """The upstreams of the live route patched through the admin API."""

    word = "the admin API answered"

    def to(self, colour):
        upstreams = [{"dial": f"127.0.0.1:{port}"} for port in self.endpoints(colour).values()]
        admin = OverUnix(self.field.dir / "caddy.sock")
        admin.request("PATCH", "/id/live/upstreams", json.dumps(upstreams), {"Content-Type": "application/json"})
        answer = admin.getresponse()
        said = answer.read()
        admin.close()
        if answer.status != 200:
            raise SystemExit(f"Caddy refused the switch: {answer.status} {said}")


class Tealgate(Switch):
    """A promotion and a rollback in turn through the admin socket."""

    word = "the admin API answered"

    def prepare(self):
        self.barriers = []
        path = self.field.dir / "admin.sock"
        wait_for("Tealgate's admin socket", path.exists)
        self.admin = OverUnix(path)
        wait_for("Tealgate's preview", lambda: self.ask("GET", "")["phase"] == "previewing")

    def to(self, colour):
        receipt = self.ask("POST", "/promote" if colour == "green" else "/rollback")
        if receipt["to"] != colour:
            raise SystemExit(f"Tealgate flipped to {receipt['to']}, not to {colour}")
        self.barriers.append(receipt["barrierMicros"] / 1e3)

    def ask(self, method, action):
        body = "{}" if method == "POST" else None
        self.admin.request(method, f"/api/v1/apps/shop{action}", body, {"Content-Type": "application/json"})
        response = self.admin.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise SystemExit(f"Tealgate refused {action}: {response.status} {answer}")
        return answer


SWITCHES = {"nginx": Nginx, "haproxy": Haproxy, "envoy": Envoy, "traefik": Traefik, "caddy": Caddy, "tealgate": Tealgate}


def wait_for(what, reached):
    deadline = time.monotonic() + 15
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come within 15 s")
        time.sleep(0.0005)
