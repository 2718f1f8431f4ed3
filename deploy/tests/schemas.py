"""Kubernetes' own schemas, for kubeconform, from where the registries have them: the OpenAPI documents in the Go module
k8s.io/kubernetes, and the CRDs in the modules of the Prometheus operator and of Argo Rollouts. Strict: a field that a
schema does not name is an error, as it is for `kubectl apply --validate=strict`."""

import json
import os
import pathlib
import subprocess
import tempfile

import yaml

from support import CACHE

KUBERNETES = "k8s.io/kubernetes@v1.34.4"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
ARGO_ROLLOUTS = "github.com/argoproj/argo-rollouts@v1.9.2"

# The documents with the kinds that we make.
GROUPS = [
    "api__v1",
    "apis__apps__v1",
    "apis__autoscaling__v2",
    "apis__networking.k8s.io__v1",
    "apis__policy__v1",
    "apis__rbac.authorization.k8s.io__v1",
]
CRDS = [
    (PROMETHEUS_OPERATOR, "jsonnet/prometheus-operator/servicemonitors-crd.json"),
    (PROMETHEUS_OPERATOR, "jsonnet/prometheus-operator/prometheusrules-crd.json"),
    (ARGO_ROLLOUTS, "manifests/crds/rollout-crd.yaml"),
]


def location():
    """Where kubeconform finds them; made the first time."""
    versions = "-".join(module.rpartition("@")[2] for module in [KUBERNETES, PROMETHEUS_OPERATOR, ARGO_ROLLOUTS])
    home = CACHE / f"schemas-{versions}"
    if not home.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as aside:
            made = pathlib.Path(aside) / "made"
            made.mkdir()
            for name, schema in [*of_kubernetes(), *of_crds()]:
                (made / name).write_text(json.dumps(schema))
            # Whole or not at all.
            made.rename(home)
    return f"{home}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"


def of_kubernetes():
    """The name and the schema of each kind in our groups."""
    directory = module(KUBERNETES) / "api" / "openapi-spec" / "v3"
    for group in GROUPS:
        schemas = json.loads((directory / f"{group}_openapi.json").read_text())["components"]["schemas"]
        kinds = {name: schema["x-kubernetes-group-version-kind"] for name, schema in schemas.items() if "x-kubernetes-group-version-kind" in schema}
        strict(schemas)
        for name, [kind, *others] in kinds.items():
            if not others:
                schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
                yield filename(kind["kind"], kind["group"], kind["version"]), schema


def of_crds():
    """The name and the schema of each version of the CRDs."""
    for crd in crds():
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            # The API server knows what metadata is.
            schema["properties"]["metadata"] = {"type": "object"}
            strict(schema)
            yield filename(spec["names"]["kind"], spec["group"], version["name"]), schema


def crds():
    """The definitions themselves, as their projects ship them."""
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [yaml.load((module(source) / path).read_text(), Loader=fast) for source, path in CRDS]


def strict(schema):
    """Closes every object, at any depth, that names its fields and does not ask for more."""
    if isinstance(schema, list):
        for item in schema:
            strict(item)
    elif isinstance(schema, dict):
        for value in schema.values():
            strict(value)
        named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
        if named and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False


def filename(kind, group, version):
    """As kubeconform fills its template in."""
    group = group.split(".")[0]
    return "-".join(part.lower() for part in [kind, group, version] if part) + ".json"


def module(name):
    """The directory of a Go module, downloaded and checked by the Go command."""
    done = subprocess.run(["go", "mod", "download", "-json", name], cwd=tempfile.gettempdir(), stdout=subprocess.PIPE, check=True, env={**os.environ, "GOFLAGS": ""})
    return pathlib.Path(json.loads(done.stdout)["Dir"])
