"""Servers under measurement, as processes: started on loopback, read through /proc, ended with all their children."""

import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import time


class DidNotStart(Exception):
    """A server ended, or did not listen in time; the message holds the last lines of its log."""


def free_port():
    """A port that the system chose."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fill(template, directory, settings):
    """The path of a configuration in `directory`, made of a template with its @settings@ put in."""
    text = template.read_text()
    for key, value in settings.items():
        text = text.replace(f"@{key}@", str(value))
    path = directory / template.name
    # Written aside and moved into place: some watch the file.
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.rename(path)
    return str(path)


def raise_file_limit():
    """Lets this process and those it starts open as many files as the system allows; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # HAProxy and nginx size tables by the limit, so it is kept within reason.
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return max(soft, wanted)


def exit_cleanly_on_signals():
    """Makes an ordinary end of TERM and HUP, so that `finally` runs and nothing is left behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))


class Process:
    """One server, with its worker processes if it has some."""

    def __init__(self, name, command, port, log, core=None, env=None, patience=20):
        self.name, self.port, self.log = name, port, pathlib.Path(log)
        # Dies with us even when we are killed; a session of its own, so that Ctrl-C reaches only us.
        wrapped = ["setpriv", "--pdeathsig", "TERM", *pinned(core), *command]
        self.started = time.monotonic()
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(wrapped, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=True, env={**os.environ, **(env or {})})
        try:
            self.wait_until_listening(patience)
            self.listened = time.monotonic() - self.started
        except BaseException:
            self.stop()
            raise

    def wait_until_listening(self, patience):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise DidNotStart(f"{self.name} did not start: {self.last_words()}")

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        return " | ".join(line[:300] for line in lines) or "it said nothing"

    def pids(self):
        """Itself and its children, which are nginx's workers."""
        children = f"/proc/{self.child.pid}/task/{self.child.pid}/children"
        return [self.child.pid] + [int(pid) for pid in pathlib.Path(children).read_text().split()]

    def cpu_seconds(self):
        """User and system time of all threads, from the scheduler's own books (nanoseconds, not ticks)."""
        total = 0
        for pid in self.pids():
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                try:
                    total += int((task / "schedstat").read_text().split()[0])
                except (FileNotFoundError, ProcessLookupError):
                    continue  # A thread that ended between the two looks.
        return total / 1e9

    def memory(self):
        """Resident and proportional set size in KiB, summed over its processes."""
        sums = self.sum_of("smaps_rollup", {"Rss", "Pss"})
        return sums["Rss"], sums["Pss"]

    def peak_memory(self):
        """The largest resident set size so far in KiB, summed over its processes."""
        return self.sum_of("status", {"VmHWM"})["VmHWM"]

    def sum_of(self, file, keys):
        sums = dict.fromkeys(keys, 0)
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
                key, _, rest = line.partition(":")
                if key in sums:
                    sums[key] += int(rest.split()[0])
        return sums

    def stop(self):
        """Ends it. nginx's master must be alive to take its workers with it, so it is asked first."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                pass
        # What is left of its session: workers that still drain, or all of it.
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.child.wait()


def pinned(core):
    """The start of a command that is to run on one core; on any if none is given."""
    return [] if core is None else ["taskset", "-c", str(core)]
