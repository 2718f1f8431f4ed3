"""The proxies that are compared and the upstreams behind them, as processes: started, pinned, read, ended."""

import os
import pathlib
import shutil
import socket
import subprocess
import time

CONFIGS = pathlib.Path(__file__).parent / "configs"
PEERS = ["nginx", "haproxy"]
ALL = PEERS + ["tealgate"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """One of them, with its worker processes if it has some."""

    def __init__(self, name, command, port, core):
        self.name, self.port = name, port
        self.child = subprocess.Popen(["taskset", "-c", str(core), *command], stdin=subprocess.DEVNULL)
        self.wait_until_listening()

    def wait_until_listening(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise SystemExit(f"{self.name} did not start")

    def pids(self):
        children = f"/proc/{self.child.pid}/task/{self.child.pid}/children"
        return [self.child.pid] + [int(pid) for pid in pathlib.Path(children).read_text().split()]

    def cpu_seconds(self):
        """User and system time of all threads, from the scheduler's own books (nanoseconds, not ticks)."""
        total = 0
        for pid in self.pids():
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory(self):
        """Resident and proportional set size in KiB, summed over its processes."""
        sums = {"Rss": 0, "Pss": 0}
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                key, _, rest = line.partition(":")
                if key in sums:
                    sums[key] += int(rest.split()[0])
        return sums["Rss"], sums["Pss"]

    def stop(self):
        # nginx's master must be alive to take its workers with it.
        self.child.terminate()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Field:
    """A temporary directory, ports, and the processes on them."""

    def __init__(self, directory, body, proxy_core, load_core, tealgate):
        names = ["blue1", "blue2", "green1", "green2"]
        self.dir, self.proxy_core, self.tealgate = directory, proxy_core, tealgate
        self.settings = {name: free_port() for name in names} | {"dir": directory, "body": "x" * body}
        self.running = []
        config = self.write("upstream.conf", {})
        command = ["nginx", "-p", directory, "-e", f"{directory}/upstream.log", "-c", config]
        self.upstream = self.start("upstream", command, self.settings["blue1"], load_core)

    def proxy(self, name):
        port = free_port()
        if name == "nginx":
            config = self.write("nginx.conf", {"port": port})
            command = ["nginx", "-p", self.dir, "-e", f"{self.dir}/nginx.log", "-c", config]
        elif name == "haproxy":
            command = ["haproxy", "-db", "-f", self.write("haproxy.cfg", {"port": port})]
        else:
            config = self.write("tealgate.yaml", {"port": port, "health": free_port()})
            command = [self.tealgate, "serve", "-c", config]
        return self.start(name, command, port, self.proxy_core)

    def start(self, name, command, port, core):
        process = Process(name, command, port, core)
        self.running.append(process)
        return process

    def write(self, name, more):
        text = (CONFIGS / name).read_text()
        for key, value in (self.settings | more).items():
            text = text.replace(f"@{key}@", str(value))
        path = pathlib.Path(self.dir) / name
        path.write_text(text)
        return str(path)

    def stop(self):
        for process in reversed(self.running):
            process.stop()


def install_missing():
    missing = [tool for tool in ["nginx", "haproxy", "wrk"] if not shutil.which(tool)]
    if missing:
        print(f"installing {' '.join(missing)}")
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "install", "-y", "-qq", *missing], check=True, env=quiet, stdout=subprocess.DEVNULL)


def versions(tealgate, names):
    commands = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "tealgate": [tealgate, "version"]}
    for name in names:
        out = subprocess.run(commands[name], capture_output=True, text=True)
        yield (out.stdout + out.stderr).strip().splitlines()[0]
