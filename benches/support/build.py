"""The Tealgate that is measured: a given binary, or one built here."""

import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def add_arguments(parser):
    parser.add_argument("--binary", help="measure this tealgate instead of building one")
    parser.add_argument("--profile", default="release", help="the build to measure: release, or quick for a look (%(default)s)")


def binary(options):
    """The path of the binary to measure."""
    if options.binary:
        return str(pathlib.Path(options.binary).resolve())
    subprocess.run(["cargo", "build", "--profile", options.profile, "--bin", "tealgate"], cwd=ROOT, check=True)
    return str(target_directory() / options.profile / "tealgate")


def target_directory():
    metadata = ["cargo", "metadata", "--format-version=1", "--no-deps"]
    out = subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return pathlib.Path(json.loads(out)["target_directory"])


def version(path):
    return subprocess.run([path, "version"], capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
