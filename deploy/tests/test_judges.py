"""Everything that the chart makes, judged by those who will read it: Helm, Kubernetes' schemas, Tealgate itself."""

import pathlib
import tempfile

import schemas
from support import CHART, DEPLOY, TEALGATE, VALUES, Refused, Test, configuration, documents, rendered, run

# Namespaces' and kubelets' places, which are not here; what stands in for them is made below.
TLS, TOKENS = "/etc/tealgate-tls", "/etc/tealgate-tokens"

PLAIN = [path for path in DEPLOY.glob("kubernetes/*.yaml") if not path.name.endswith(".values.yaml")]


def kubeconform(*files, stdin=None):
    return run("kubeconform", "-strict", "-summary", "-schema-location", schemas.location(), *files, stdin=stdin)


class Helm(Test):
    def test_it_finds_nothing_to_complain_of(self):
        for values in VALUES:
            with self.subTest(values.relative_to(DEPLOY)):
                said = run("helm", "lint", "--strict", "--quiet", CHART, "--namespace", "shop", "--kube-version", "1.34.0", "--values", values)
                self.assertEqual(said.strip(), "")


class Kubernetes(Test):
    def test_it_knows_every_field_that_the_chart_makes(self):
        for values in VALUES:
            with self.subTest(values.relative_to(DEPLOY)):
                kubeconform("-", stdin=rendered(values))

    def test_it_knows_every_field_of_the_examples_and_of_the_plain_manifests(self):
        kubeconform(*DEPLOY.glob("examples/*/app.yaml"), *PLAIN)

    def test_a_field_it_does_not_know_is_an_error(self):
        known = "apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { ports: [{ port: 80%s }] }\n"
        kubeconform("-", stdin=known % "")
        self.assertRefused("additional properties 'tagetPort' not allowed", lambda: kubeconform("-", stdin=known % ", tagetPort: 80"))
        rollout = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: { name: a }\nspec: { strategy: { blueGreen: { activeServce: a } } }\n"
        self.assertRefused("activeServce", lambda: kubeconform("-", stdin=rollout))


class Workflows(Test):
    def test_actionlint_finds_nothing_to_complain_of(self):
        run("actionlint", "-shellcheck=", "-pyflakes=", *DEPLOY.glob("pipelines/github-*.yml"))

    def test_a_mistake_is_an_error(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "wrong.yml"
            right = (DEPLOY / "pipelines" / "github-smoke-tests.yml").read_text()
            file.write_text(right.replace("steps.suite.outcome", "steps.siute.outcome"))
            self.assertRefused("siute", lambda: run("actionlint", "-shellcheck=", "-pyflakes=", file))


class Tealgate(Test):
    def test_it_takes_every_configuration_that_the_chart_makes(self):
        for values in VALUES:
            with self.subTest(values.relative_to(DEPLOY)), tempfile.TemporaryDirectory() as directory:
                directory = pathlib.Path(directory)
                things = documents(rendered(values))
                file = directory / "tealgate.yaml"
                file.write_text(self.with_files(configuration(things), things, directory))
                run(TEALGATE, "check", "--config", file, env={"PREVIEW_SECRET": "correct horse battery staple"})

    def with_files(self, text, things, directory):
        """The configuration with the files it names, in a directory instead of the pod."""
        tokens = directory / "tokens.yaml"
        secrets = [thing["stringData"]["tokens.yaml"] for thing in things if thing["kind"] == "Secret"]
        tokens.write_text(secrets[0] if secrets else "tokens: []\n")
        for mount in self.mounts(things):
            if mount.startswith(TLS):
                pair = directory / mount.lstrip("/")
                pair.mkdir(parents=True)
                self.certificate(pair)
        return text.replace(f"{TOKENS}/", f"{directory}/").replace(f"{TLS}/", f"{directory}{TLS}/")

    def mounts(self, things):
        [workload] = [thing for thing in things if thing["kind"] in ("Deployment", "StatefulSet")]
        [container] = workload["spec"]["template"]["spec"]["containers"]
        return [mount["mountPath"] for mount in container["volumeMounts"]]

    def certificate(self, directory):
        subject = ["-subj", "/CN=shop.example.com", "-addext", "subjectAltName=DNS:shop.example.com"]
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", *subject]
        run(*made, "-keyout", directory / "tls.key", "-out", directory / "tls.crt")


class Sets(Test):
    def test_every_switch_of_the_values_is_turned_in_some_set(self):
        """Each template renders something in one set at least, so that all have been judged."""
        kinds = {thing["kind"] for values in VALUES for thing in documents(rendered(values))}
        wanted = {
            "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "Pod",
            "PodDisruptionBudget", "PrometheusRule", "Role", "RoleBinding", "Secret", "Service", "ServiceAccount", "ServiceMonitor", "StatefulSet",
        }  # fmt: skip
        self.assertEqual(kinds, wanted)

    def test_without_values_it_says_what_to_write(self):
        with self.assertRaises(Refused) as refused:
            run("helm", "template", "tealgate", CHART, "--kube-version", "1.34.0")
        self.assertIn("source: { kubernetes: { rollout: shop } }", str(refused.exception))
