"""The same by a real API server, where there is one: KUBEBUILDER_ASSETS names a folder with etcd and kube-apiserver, as
`setup-envtest` makes it. It takes every object under strict validation, lets the pods into a restricted namespace, and gives
the rights that are meant and no others."""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import schemas
from support import DEPLOY, SHOP, VALUES, Test, documents, objects, only, render, rendered

ASSETS = pathlib.Path(os.environ.get("KUBEBUILDER_ASSETS", "/nowhere"))

# Where objects of a kind are, below /api/v1 or /apis/GROUP/VERSION.
PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}
GLOBAL = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace", "PriorityClass"}


class Server:
    """An API server over an etcd of its own, on loopback, in a directory that goes with it."""

    def __init__(self, stack):
        self.directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.token = secrets.token_hex(16)
        etcd, peer, port = free_ports(3)
        self.start(stack, "etcd", [
            f"--data-dir={self.directory}/etcd", f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}", "--unsafe-no-fsync",
        ])  # fmt: skip
        subprocess.run(["openssl", "genrsa", "-out", self.directory / "accounts.key", "2048"], check=True, capture_output=True)
        (self.directory / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self.start(stack, "kube-apiserver", [
            f"--etcd-servers=http://127.0.0.1:{etcd}", f"--cert-dir={self.directory}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
            f"--token-auth-file={self.directory}/tokens.csv", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory}/accounts.key", f"--service-account-signing-key-file={self.directory}/accounts.key",
        ])  # fmt: skip
        self.base = f"https://127.0.0.1:{port}"
        self.wait()

    def start(self, stack, program, arguments):
        log = stack.enter_context(open(self.directory / f"{program}.log", "w"))
        process = subprocess.Popen([ASSETS / program, *arguments], stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)

    def wait(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                return self.call("GET", "/readyz")
            except (urllib.error.URLError, ConnectionError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError((self.directory / "kube-apiserver.log").read_text()[-2000:]) from error
                time.sleep(0.2)

    def call(self, method, path, body=None):
        """The answer to a call; anything but a 2xx is an error, with what the server said."""
        request = urllib.request.Request(self.base + path, method=method, data=body and json.dumps(body).encode())
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", "application/json")
        # Its certificate is its own, and made a moment ago.
        trusting = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, context=trusting, timeout=30) as answer:
                text = answer.read().decode()
                return json.loads(text) if text.startswith("{") else text
        except urllib.error.HTTPError as error:
            if path == "/readyz":
                raise
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def create(self, thing, namespace="shop", dry_run=False):
        """Makes the object, or only asks whether it could be made. A field that the server does not know is an error."""
        version = thing["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural = PLURALS.get(thing["kind"], thing["kind"].lower() + "s")
        place = plural if thing["kind"] in GLOBAL else f"namespaces/{thing['metadata'].get('namespace', namespace)}/{plural}"
        return self.call("POST", f"{root}/{place}?fieldValidation=Strict{'&dryRun=All' if dry_run else ''}", thing)

    def may(self, verb, group, resource, name="", namespace="shop", account="tealgate"):
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name, "namespace": namespace}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        review["spec"] = {"user": f"system:serviceaccount:shop:{account}", "resourceAttributes": attributes}
        return self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@unittest.skipUnless((ASSETS / "kube-apiserver").exists() and shutil.which("openssl"), "KUBEBUILDER_ASSETS names no kube-apiserver")
class Cluster(Test):
    @classmethod
    def setUpClass(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.server = Server(stack)
        for name in ("shop", "back"):
            restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
            cls.server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}})
        for crd in schemas.crds():
            cls.server.create(crd)
        for group in {crd["spec"]["group"] for crd in schemas.crds()}:
            cls.served(group)

    @classmethod
    def served(cls, group):
        deadline = time.monotonic() + 60
        while group not in {each["name"] for each in cls.server.call("GET", "/apis")["groups"]}:
            assert time.monotonic() < deadline, f"{group} is not served"
            time.sleep(0.1)

    def test_every_object_is_taken_under_strict_validation(self):
        for values in VALUES:
            for thing in documents(rendered(values)):
                with self.subTest(values=values.name, kind=thing["kind"], name=thing["metadata"]["name"]):
                    # Pods are asked about below: they want their ServiceAccount to be there.
                    if thing["kind"] != "Pod":
                        self.server.create(thing, dry_run=True)

    def test_the_examples_are_taken_too(self):
        for path in DEPLOY.glob("examples/*/app.yaml"):
            for thing in documents(path.read_text()):
                with self.subTest(path=path, kind=thing["kind"]):
                    self.server.create(thing, dry_run=True)

    def test_the_pods_are_let_into_a_restricted_namespace(self):
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tealgate"}}
        self.server.create(account, namespace="back")
        for values in (SHOP, {**SHOP, "state": {"kind": "persistent"}}):
            things = objects(values)
            [workload] = [thing for thing in things.values() if thing["kind"] in ("Deployment", "StatefulSet")]
            template = workload["spec"]["template"]
            # A StatefulSet's claims become the pod's volumes.
            template["spec"]["volumes"] += [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in workload["spec"].get("volumeClaimTemplates", [])]
            metadata = {"generateName": "tealgate-", "labels": template["metadata"]["labels"]}
            self.server.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}, namespace="back", dry_run=True)
            test = only(things, "Pod")
            test["metadata"] = {"generateName": "test-"}
            # Without an account of its own it is the namespace's default one, which a controller would have made.
            test["spec"]["serviceAccountName"] = "tealgate"
            self.server.create(test, namespace="back", dry_run=True)

    def test_rights_are_what_is_meant_and_nothing_else(self):
        reading = [(group, resource) for group, resource in [("argoproj.io", "rollouts"), ("apps", "replicasets"), ("", "services"), ("", "pods")]]
        acting = [
            ("patch", "argoproj.io", "rollouts", "shop"),
            ("patch", "argoproj.io", "rollouts/status", "shop"),
            ("create", "events.k8s.io", "events", ""),
            ("patch", "apps", "replicasets", "shop-1"),
        ]
        never = [
            ("patch", "", "services", "shop-active"),
            ("patch", "argoproj.io", "rollouts", "other"),
            ("update", "argoproj.io", "rollouts", "shop"),
            ("delete", "argoproj.io", "rollouts", "shop"),
            ("get", "apps", "deployments", "shop"),
            ("delete", "", "pods", "shop-1"),
            ("get", "", "secrets", "tealgate-tokens"),
            ("create", "authentication.k8s.io", "tokenreviews", ""),
        ]
        for account, mode in [("observer", "observe"), ("operator", "operate")]:
            name = {"fullnameOverride": account}
            for thing in documents(render(SHOP, name, {"mode": mode})):
                if thing["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
                    self.server.create(thing)
            for group, resource in reading:
                for verb in ("get", "list", "watch"):
                    self.assertTrue(self.server.may(verb, group, resource, account=account), (account, verb, resource))
                    self.assertFalse(self.server.may(verb, group, resource, namespace="back", account=account), (account, verb, resource))
            for verb, group, resource, name in acting:
                self.assertEqual(self.server.may(verb, group, resource, name, account=account), mode == "operate", (account, verb, resource))
            for verb, group, resource, name in never:
                self.assertFalse(self.server.may(verb, group, resource, name, account=account), (account, verb, resource))
