"""What the tests share: the chart rendered with some values, and the programs that judge it."""

import functools
import os
import pathlib
import subprocess
import tempfile
import unittest

import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
PROJECT = DEPLOY.parent
CHART = DEPLOY / "helm" / "tealgate"
TEALGATE = os.environ["TEALGATE"]
CACHE = pathlib.Path(os.environ["TEALGATE_CI_CACHE"])

# Every set of values that is rendered, linted, and judged: the examples', the plain manifests', and the corners of the chart.
VALUES = sorted([*CHART.glob("ci/*.yaml"), *DEPLOY.glob("examples/*/values.yaml"), *DEPLOY.glob("kubernetes/*.values.yaml")])

# The least that renders.
SHOP = {"apps": {"shop": {"source": {"kubernetes": {"rollout": "shop"}}}}}


class Refused(Exception):
    """A program ended with an error; what it said."""


def run(*command, stdin=None, env=None):
    """What the command printed; if it ended badly, `Refused` with all it said."""
    command = [str(word) for word in command]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode:
        raise Refused(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    # Warnings of those that work quietly.
    return done.stdout or done.stderr


def render(*values, release="tealgate", namespace="shop"):
    """The chart's manifests as text, with values from files and dicts, the last winning."""
    command = ["helm", "template", release, CHART, "--namespace", namespace, "--kube-version", "1.34.0"]
    with tempfile.TemporaryDirectory() as directory:
        for index, given in enumerate(values):
            if isinstance(given, dict):
                path = pathlib.Path(directory) / f"{index}.yaml"
                path.write_text(yaml.safe_dump(given))
                given = path
            command += ["--values", given]
        return run(*command)


@functools.cache
def rendered(path):
    """The manifests that a file of values makes, as text."""
    return render(path)


def documents(text):
    """The objects in a file of manifests."""
    return [document for document in yaml.safe_load_all(text) if document]


def objects(*values, namespace="shop", **kwargs):
    """What the chart makes of these values, by kind and name; where that is another namespace's, by NAMESPACE/NAME."""
    made = {}
    for thing in documents(render(*values, namespace=namespace, **kwargs)):
        kind, metadata = thing["kind"], thing["metadata"]
        elsewhere = metadata.get("namespace", namespace) != namespace
        key = (kind, f"{metadata['namespace']}/{metadata['name']}" if elsewhere else metadata["name"])
        assert key not in made, key
        made[key] = thing
    return made


def only(things, kind):
    """The one object of a kind."""
    found = [thing for thing in things.values() if thing["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def configuration(things):
    """Tealgate's file out of a rendering's ConfigMap, as text."""
    files = [thing["data"]["tealgate.yaml"] for thing in things if "tealgate.yaml" in thing.get("data", {})]
    assert len(files) == 1, f"{len(files)} configurations"
    return files[0]


class Test(unittest.TestCase):
    """A test with more words."""

    maxDiff = None

    def assertRefused(self, words, make, *values):
        """It is refused, and says so in these words."""
        with self.assertRaises(Refused) as refused:
            make(*values)
        self.assertIn(words, " ".join(str(refused.exception).split()))
