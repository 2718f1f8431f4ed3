"""Debian's packages, by the tool that each is wanted for."""

import os
import shutil
import subprocess
import sys


def install(tools):
    """Installs the packages of those tools that are missing, named as {tool: package}."""
    install_packages(sorted({package for tool, package in tools.items() if not shutil.which(tool)}))


def install_packages(names):
    if not names:
        return
    print(f"installing {' '.join(names)}", file=sys.stderr, flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=sys.stderr)
    subprocess.run(["apt-get", "install", "-y", "-qq", *names], check=True, env=quiet, stdout=sys.stderr)
