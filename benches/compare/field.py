"""The field: a temporary directory, a certificate, ports, the upstreams, and the proxies in front of them."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

from process import DidNotStart, Process, fill, free_port, raise_file_limit

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE / "configs"
PEERS = ["nginx", "haproxy", "envoy", "traefik", "caddy", "pingora"]
# What no proxy can cost less than (see floor/).
FLOOR = "floor"
ALL = PEERS + [FLOOR, "tealgate"]
# The files that are written for each proxy, the one it is started with first.
FILES = {
    "nginx": ["nginx.conf"],
    "haproxy": ["haproxy.cfg"],
    "envoy": ["envoy.yaml", "envoy-routes.yaml"],
    "traefik": ["traefik.yaml", "traefik-routes.yaml"],
    "caddy": ["caddy.json"],
    "tealgate": ["tealgate.yaml"],
    "pingora": [],
    FLOOR: [],
}
COLOURS = ("blue", "green")
GRPC_HOST = "grpc.example.com"
# A gRPC frame: not compressed, and so many octets of message.
GRPC_FRAME = bytes([0, 0, 0, 0, 32]) + bytes([10, 30]) + b"x" * 30


class Unsupported(Exception):
    """A proxy that refuses the configuration a case needs."""


class Field:
    """Everything that runs, and the settings that all share. A context manager: nothing is left of it."""

    def __init__(self, binaries, workers, proxy_core=None, load_core=None):
        self.binaries, self.workers = binaries, workers
        self.proxy_core, self.load_core = proxy_core, load_core
        self.running = []

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tealgate-compare-"))
        try:
            # nginx's workers give up root, and must still reach their files.
            self.dir.chmod(0o755)
            self.settings = self.common_settings()
            self.write_bodies()
            self.write_certificate()
            self.start("streams", [sys.executable, HERE / "streams.py", self.settings["streams"]], self.settings["streams"], self.load_core)
            command = ["nginx", "-p", self.dir, "-e", self.dir / "upstream.log", "-c", self.write("upstream.conf")]
            self.upstream = self.start("upstream", command, self.settings["blue1"], self.load_core)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def common_settings(self):
        files = raise_file_limit()
        names = ["blue1", "blue2", "green1", "green2", "blue1_h2", "blue2_h2", "streams"]
        more = {"dir": self.dir, "body": "x" * 128, "workers": self.workers, "files": files, "room": (files - 500) // 2}
        return {name: free_port() for name in names} | more

    def write_bodies(self):
        www = self.dir / "www"
        www.mkdir()
        for name, octets in [("16k", 16 << 10), ("1m", 1 << 20), ("100m", 100 << 20)]:
            with (www / name).open("wb") as file:
                file.truncate(octets)
        for path in (www / "grpc.bin", self.dir / "grpc-request"):
            path.write_bytes(GRPC_FRAME)

    def write_certificate(self):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        command += ["-subj", "/CN=shop.example.com", "-addext", "subjectAltName=DNS:shop.example.com,DNS:grpc.example.com"]
        subprocess.run([*command, "-keyout", self.dir / "tls.key", "-out", self.dir / "tls.crt"], check=True, capture_output=True)
        both = (self.dir / "tls.crt").read_text() + (self.dir / "tls.key").read_text()
        (self.dir / "tls.pem").write_text(both)
        # The clients that take no options of their own offer one cipher and one group too, so that none pays for another.
        (self.dir / "openssl.cnf").write_text(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = one\n"
            "[one]\nMinProtocol = TLSv1.3\nCiphersuites = TLS_AES_128_GCM_SHA256\nGroups = X25519\n")

    def proxy(self, name, flip=False):
        """Starts one; with `flip`, in the form in which it is switched best."""
        ports = {key: free_port() for key in ("port", "tls", "grpc", "admin", "health")}
        s = self.settings
        ports |= {"one": s["blue1"], "two": s["blue2"], "one_h2": s["blue1_h2"], "two_h2": s["blue2_h2"], "colour": "blue"}
        files = [self.write(file, ports) for file in FILES[name]]
        binary = self.binaries[name]
        env, refusal = {}, None
        if name == "nginx":
            command = [binary, "-p", self.dir, "-e", self.dir / "nginx.log", "-c", files[0]]
        elif name == "haproxy":
            if flip:
                files = [self.write("haproxy-flip.cfg", ports)]
                (self.dir / "haproxy.map").write_text("live blue\n")
            command = [binary, "-db", "-f", files[0]]
        elif name == "envoy":
            command = [binary, "-c", files[0], "--concurrency", self.workers, "--disable-hot-restart", "-l", "error"]
        elif name == "traefik":
            command, env = [binary, f"--configfile={files[0]}"], {"GOMAXPROCS": str(self.workers)}
        elif name == "caddy":
            command = [binary, "run", "--config", files[0]]
            env = {"GOMAXPROCS": str(self.workers), "XDG_DATA_HOME": str(self.dir), "XDG_CONFIG_HOME": str(self.dir)}
        elif name == "pingora":
            command = [binary, self.workers, ports["port"], ports["tls"], ports["grpc"], self.dir]
            command += [s["blue1"], s["blue2"], s["blue1_h2"], s["blue2_h2"]]
        elif name == FLOOR:
            command = [binary, self.workers, ports["port"], s["blue1"], s["blue2"]]
        else:
            shutil.rmtree(self.dir / "state", ignore_errors=True)
            refusal = self.add_h2_to(files[0], ports)
            ports["grpc"] = ports["port"]
            command = [binary, "serve", "-c", files[0]]
        process = self.start(name, command, ports["port"], self.proxy_core, env)
        process.ports, process.refusal = ports, refusal
        self.wait_until_answering(process)
        return process

    def wait_until_answering(self, process):
        """Some listen before they have read where to send requests."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
        raise DidNotStart(f"{process.name} listens, but answers no request: {process.last_words()}")

    def add_h2_to(self, file, ports):
        """Adds the app with an HTTP/2 upstream to Tealgate's file; the reason, if this Tealgate refuses it."""
        plain = pathlib.Path(file).read_text()
        more = pathlib.Path(self.write("tealgate-h2.yaml", ports)).read_text()
        pathlib.Path(file).write_text(plain + more)
        check = subprocess.run([self.binaries["tealgate"], "check", "-c", file], capture_output=True, text=True)
        if check.returncode == 0:
            return None
        pathlib.Path(file).write_text(plain)
        # The first line names the file, the next says what is wrong with it.
        lines = [line.strip() for line in (check.stderr + check.stdout).splitlines() if line.strip().startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else "refused"

    def start(self, name, command, port, core, env=None):
        process = Process(name, [str(part) for part in command], port, self.dir / f"{name}.out", core, env)
        self.running.append(process)
        return process

    def end(self, process):
        process.stop()
        self.running.remove(process)

    def write(self, name, more=()):
        """A configuration with the ports and paths of this run put in."""
        return fill(CONFIGS / name, self.dir, self.settings | dict(more))


__all__ = ["ALL", "COLOURS", "DidNotStart", "FLOOR", "Field", "GRPC_HOST", "PEERS", "Unsupported"]
