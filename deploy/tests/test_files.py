"""What lies in deploy/ as files: made again they come out the same, and those who read them find nothing wrong."""

import pathlib
import re
import shutil
import tempfile
import unittest

from support import CHART, DEPLOY, PROJECT, TEALGATE, Test, run


class Rendered(Test):
    def test_what_is_made_of_something_else_is_up_to_date(self):
        with tempfile.TemporaryDirectory() as directory:
            run(DEPLOY / "render", TEALGATE, directory)
            made = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
            self.assertEqual({path.name for path in made}, {"values.schema.json", "tealgate.yaml", "tealgate-observe.yaml"})
            for path in made:
                committed = DEPLOY / path.relative_to(directory)
                self.assertEqual(committed.read_text(), path.read_text(), f"{committed} is stale: run deploy/render")

    def test_what_is_shared_is_there_once(self):
        for link, target in [("prometheus/alerts.yaml", "files/alerts.yaml"), ("grafana/dashboard.json", "files/dashboard.json")]:
            self.assertTrue((DEPLOY / link).is_symlink() and (DEPLOY / link).samefile(CHART / target), link)

    def test_the_chart_is_of_the_program_s_version(self):
        version = re.search(r'^version = "(.+)"$', (PROJECT / "Cargo.toml").read_text(), re.M)[1]
        self.assertIn(f'appVersion: "{version}"\n', (CHART / "Chart.yaml").read_text())


class Dockerfile(Test):
    PATH = DEPLOY / "docker" / "Dockerfile"

    def test_the_linter_finds_nothing(self):
        self.assertEqual(run("hadolint", "--failure-threshold", "style", self.PATH), "")

    def test_it_copies_what_the_program_is_built_of(self):
        text = self.PATH.read_text()
        copied = [word for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.M) for word in line.split()]
        self.assertLessEqual({"Cargo.toml", "Cargo.lock", "src"}, set(copied))
        self.assertEqual([path for path in copied if not (PROJECT / path).exists()], [])
        allowed = re.findall(r"^!(.+)$", (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text(), re.M)
        self.assertEqual(sorted(allowed), sorted(copied))
        for source in (PROJECT / "src").rglob("*.rs"):
            for included in re.findall(r'include_(?:str|bytes)!\("(.+?)"\)', source.read_text()):
                path = (source.parent / included).resolve().relative_to(PROJECT)
                # deploy/ is what tests read, and an image is built without tests.
                self.assertIn(path.parts[0], [*copied, "deploy"], source)

    def test_it_builds_with_the_toolchain_that_the_manifest_wants(self):
        wanted = re.search(r'^rust-version = "(.+)"$', (PROJECT / "Cargo.toml").read_text(), re.M)[1]
        self.assertRegex(self.PATH.read_text(), rf"ARG RUST=docker\.io/library/rust:{re.escape(wanted)}\.\d+-slim-bookworm")

    def test_its_health_check_is_the_program_s(self):
        self.assertIn('HEALTHCHECK --interval=5s', self.PATH.read_text())
        self.assertIn("/readyz", run(TEALGATE, "healthcheck", "--help"))


@unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd here")
class Systemd(Test):
    UNIT = DEPLOY / "systemd" / "tealgate.service"

    def unit(self, directory):
        """The unit with the program where it is here."""
        path = pathlib.Path(directory) / "tealgate.service"
        text = self.UNIT.read_text().replace("/usr/bin/tealgate", TEALGATE)
        if int(run("systemd-analyze", "--version").split()[1]) < 253:
            # It would take the line before, and say so.
            text = text.replace("Type=notify-reload\n", "")
        path.write_text(text)
        return path

    def test_systemd_understands_the_unit(self):
        with tempfile.TemporaryDirectory() as directory:
            self.assertEqual(run("systemd-analyze", "verify", "--man=no", self.unit(directory)), "")

    def test_systemd_finds_it_hardly_exposed(self):
        with tempfile.TemporaryDirectory() as directory:
            run("systemd-analyze", "security", "--offline=true", "--threshold=20", self.unit(directory))

    def test_the_hostname_stays_readable_which_names_the_replica(self):
        self.assertNotIn("ProcSubset=pid", self.UNIT.read_text())
