"""The cases of the load part, one row each: what is asked, by which tool, and what to aim for."""

from dataclasses import dataclass, field

import load
from field import FLOOR, GRPC_HOST, Unsupported

GRPC_FIELDS = {"content-type": "application/grpc", "te": "trailers", "user-agent": "grpc-compare/1.0"}


@dataclass(frozen=True)
class Case:
    """One kind of load. `aim` is the ratio of CPU per request, to the better of nginx and HAProxy, that we want to stay under, if any."""

    name: str
    title: str
    tool: str
    aim: float | None
    path: str = "/"
    body: int = 128
    options: dict = field(default_factory=dict)
    # Whether two reads and two writes do it.
    on_floor: bool = False

    def measure(self, proxy, how):
        """One run against one proxy: CPU microseconds per request, requests a second, latencies in microseconds."""
        if self.tool == "grpc" and proxy.refusal:
            raise Unsupported(proxy.refusal)
        if proxy.name == FLOOR and not self.on_floor:
            raise Unsupported("it passes octets as they come")
        before = proxy.cpu_seconds()
        result = self.run(proxy, how)
        used = proxy.cpu_seconds() - before
        if result["octets"] < result["requests"] * self.body:
            raise load.Failed(f"answers of {result['octets'] / result['requests']:.0f} octets, not {self.body}")
        asked = result.get("asked")
        rate = result["requests"] / result["seconds"]
        return {
            "cpu": used * 1e6 / result["requests"],
            "rate": rate,
            "held": None if asked is None else rate >= 0.97 * asked,
            "requests": result["requests"],
            "failed": result["failed"],
        } | {key: result[key] for key in ("p50", "p99", "p999")}

    def run(self, proxy, how):
        plain, tls = f"http://127.0.0.1:{proxy.ports['port']}{self.path}", f"https://127.0.0.1:{proxy.ports['tls']}{self.path}"
        seconds, connections, core = how.seconds, how.connections, how.load_core
        if self.tool == "wrk":
            return load.wrk(plain, seconds, connections, core, **self.options)
        if self.tool == "wrk-tls":
            return load.wrk(tls, seconds, connections, core, env={"OPENSSL_CONF": str(how.openssl)}, **self.options)
        if self.tool == "paced":
            return load.paced(plain, seconds, connections, how.rate if self.options["rate"] == "equal" else self.options["rate"], core)
        if self.tool == "handshakes":
            return load.handshakes(proxy.ports["tls"], seconds, 4, core)
        if self.tool == "h2":
            return load.h2(tls, seconds, connections // 4, 4, core)
        grpc = f"http://127.0.0.1:{proxy.ports['grpc']}{self.path}"
        return load.h2(grpc, seconds, connections // 4, 4, core, GRPC_HOST, how.grpc_request, GRPC_FIELDS)


CASES = [
    Case("small", "128 B, keep-alive, saturated", "wrk", 0.75, on_floor=True),
    Case("rate", "128 B, keep-alive, at an equal rate", "paced", 0.80, options={"rate": "equal"}, on_floor=True),
    Case("idle", "128 B, keep-alive, 2,000 requests/s", "paced", 1.0, options={"rate": 2000}, on_floor=True),
    Case("16k", "16 KiB, keep-alive", "wrk", 0.70, "/16k", 16 << 10, on_floor=True),
    Case("1m", "1 MiB, keep-alive", "wrk", 1.0, "/1m", 1 << 20),
    Case("post", "POST of 16 KiB, keep-alive", "wrk", 1.0, options={"post": 16 << 10}, on_floor=True),
    Case("connect", "new connection per request", "wrk", 1.0, options={"close": True}),
    Case("tls", "TLS, 128 B, keep-alive", "wrk-tls", 0.75),
    Case("tls-16k", "TLS, 16 KiB, keep-alive", "wrk-tls", 0.65, "/16k", 16 << 10),
    Case("handshake", "full TLS handshake per request", "handshakes", 0.65),
    Case("h2", "HTTP/2 over TLS, 128 B", "h2", 1.2),
    Case("grpc", "gRPC unary, h2c on both sides", "grpc", None, "/shop.Shop/Get", 37),
]
