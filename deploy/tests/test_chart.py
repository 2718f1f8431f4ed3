"""What the chart promises to whoever installs it."""

from support import SHOP, Test, configuration, documents, objects, only, render

import yaml

READ = {"get", "list", "watch"}


def rights(things, namespace=None):
    """Every right that the roles give: (group, resource, verb) and the names it is limited to."""
    found = {}
    for thing in things.values():
        if thing["kind"] not in ("Role", "ClusterRole") or namespace not in (None, thing["metadata"].get("namespace")):
            continue
        for rule in thing["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        found[group, resource, verb] = rule.get("resourceNames")
    return found


def pod(things, kind="Deployment"):
    return only(things, kind)["spec"]["template"]["spec"]


class Rights(Test):
    def test_to_observe_nothing_but_reading_is_allowed(self):
        given = rights(objects(SHOP, {"mode": "observe"}))
        self.assertEqual({verb for _, _, verb in given}, READ)
        self.assertEqual(
            {(group, resource) for group, resource, _ in given},
            {("", "services"), ("", "pods"), ("apps", "replicasets"), ("argoproj.io", "rollouts")},
        )

    def test_to_operate_only_the_named_rollouts_may_be_patched_and_services_never(self):
        given = rights(objects(SHOP))
        more = {right: names for right, names in given.items() if right[2] not in READ}
        self.assertEqual(
            more,
            {
                ("argoproj.io", "rollouts", "patch"): ["shop"],
                ("argoproj.io", "rollouts/status", "patch"): ["shop"],
                ("events.k8s.io", "events", "create"): None,
                ("apps", "replicasets", "patch"): None,
            },
        )

    def test_what_is_asked_for_is_added_and_what_is_not_wanted_left_out(self):
        given = rights(objects(SHOP, {"rbac": {"extendDeadlines": False, "workloadRef": True}}))
        self.assertNotIn(("apps", "replicasets", "patch"), given)
        self.assertIn(("apps", "deployments", "patch"), given)

    def test_each_namespace_has_a_role_of_its_own_for_what_is_in_it(self):
        apps = {
            "shop": {"source": {"kubernetes": {"rollout": "shop"}}},
            "cart": {"source": {"kubernetes": {"namespace": "back", "rollout": "cart"}}},
            "tax": {"source": {"kubernetes": {"namespace": "back", "rollout": "tax"}}},
            "blog": {"source": {"kubernetes": {"namespace": "blog", "active_service": "blog", "preview_service": "blog-next"}}},
        }
        things = objects({"apps": apps}, namespace="edge")
        self.assertEqual(rights(things, "edge")["argoproj.io", "rollouts", "patch"], ["shop"])
        self.assertEqual(rights(things, "back")["argoproj.io", "rollouts", "patch"], ["cart", "tax"])
        # Who follows Services has no business with Rollouts.
        self.assertEqual(set(rights(things, "blog")), {("", kind, verb) for kind in ("services", "pods") for verb in READ})
        bindings = [thing for thing in things.values() if thing["kind"] == "RoleBinding"]
        self.assertEqual({binding["metadata"]["namespace"] for binding in bindings}, {"edge", "back", "blog"})
        for binding in bindings:
            self.assertEqual(binding["subjects"], [{"kind": "ServiceAccount", "name": "tealgate", "namespace": "edge"}])
        self.assertFalse([thing for thing in things.values() if thing["kind"].startswith("Cluster")])

    def test_one_cluster_role_stands_for_all_if_that_is_wanted(self):
        things = objects(SHOP, {"rbac": {"scope": "cluster"}})
        self.assertFalse([thing for thing in things.values() if thing["kind"].startswith("Role")])
        self.assertIn(("argoproj.io", "rollouts/status", "patch"), rights(things))
        self.assertEqual(only(things, "ClusterRoleBinding")["subjects"][0]["namespace"], "shop")

    def test_the_cluster_is_asked_about_callers_only_where_somebody_wants_it(self):
        enabled = {"enabled": True, "existingSecret": "tokens"}
        self.assertFalse([thing for thing in objects(SHOP, {"admin": enabled}).values() if thing["kind"] == "ClusterRole"])
        asking = {"admin": {"enabled": True, "kubernetesAuth": True}}
        things = objects(SHOP, asking)
        review = rights({"it": things["ClusterRole", "shop-tealgate-token-review"]})
        self.assertEqual(set(review), {("authentication.k8s.io", "tokenreviews", "create"), ("authorization.k8s.io", "subjectaccessreviews", "create")})
        self.assertIs(yaml.safe_load(configuration(things.values()))["admin"]["kubernetes_auth"], True)
        self.assertNotIn("tokens", [volume["name"] for volume in pod(things)["volumes"]])
        self.assertNotIn(("ClusterRole", "shop-tealgate-token-review"), objects(SHOP, asking, {"rbac": {"tokenReview": False}}))

    def test_callers_have_roles_that_are_bound_to_nobody(self):
        things = objects(SHOP, {"admin": {"enabled": True, "kubernetesAuth": True}})
        verbs = {role: things["ClusterRole", f"shop-tealgate-{role}"]["rules"][0]["verbs"] for role in ("viewer", "operator", "admin")}
        self.assertEqual(verbs, {"viewer": ["get"], "operator": ["get", "update"], "admin": ["get", "update", "manage"]})
        bound = [thing["roleRef"]["name"] for thing in things.values() if thing["kind"] == "ClusterRoleBinding"]
        self.assertEqual(bound, ["shop-tealgate-token-review"])

    def test_a_pod_without_kubernetes_as_source_has_no_token(self):
        fixed = {"static": {"active": "v1", "revisions": {"v1": {"endpoints": ["10.0.0.1:80"]}}}}
        things = objects({"apps": {"shop": {"source": fixed}}})
        self.assertIs(pod(things)["automountServiceAccountToken"], False)
        self.assertFalse(rights(things))
        self.assertIs(pod(objects(SHOP))["automountServiceAccountToken"], True)


class Pods(Test):
    def test_they_run_as_nobody_and_can_write_nothing_but_their_state(self):
        for spec in pod(objects(SHOP)), only(objects(SHOP), "Pod")["spec"]:
            self.assertEqual((spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]), (True, 65532))
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            [container] = spec["containers"]
            self.assertEqual(
                container["securityContext"],
                {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            )
        [container] = pod(objects(SHOP))["containers"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        self.assertEqual(writable, {"/run/tealgate", "/var/lib/tealgate"})

    def test_an_update_takes_none_away_before_another_is_there(self):
        strategy = only(objects(SHOP), "Deployment")["spec"]["strategy"]
        self.assertEqual(strategy["rollingUpdate"], {"maxUnavailable": 0, "maxSurge": 1})

    def test_they_have_time_to_drain(self):
        def grace(*drains, **drain):
            apps = {f"a{index}": {**SHOP["apps"]["shop"], **({"drain": {"timeout": time}} if time else {})} for index, time in enumerate(drains)}
            return pod(objects({"apps": apps, "drain": drain}))["terminationGracePeriodSeconds"]

        self.assertEqual(grace(None), 5 + 30 + 10)
        self.assertEqual(grace("10s", "1m30s", "500ms"), 5 + 90 + 10)
        self.assertEqual(grace("1h", delaySeconds=15), 15 + 3600 + 10)
        self.assertEqual(grace("1500ms", "0s"), 5 + 2 + 10)
        self.assertEqual(grace("1m", gracePeriodSeconds=20), 20)
        [container] = pod(objects(SHOP, {"drain": {"delaySeconds": 7}}))["containers"]
        self.assertEqual(container["lifecycle"], {"preStop": {"sleep": {"seconds": 7}}})

    def test_probes_go_where_the_program_answers_them(self):
        things = objects(SHOP)
        [container] = pod(things)["containers"]
        paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
        ready, live = {"path": "/readyz", "port": "health"}, {"path": "/livez", "port": "health"}
        self.assertEqual(paths, {"startupProbe": live, "readinessProbe": ready, "livenessProbe": live})
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        file = yaml.safe_load(configuration(things.values()))
        self.assertEqual(file["health"]["bind"], f"0.0.0.0:{ports['health']}")
        binds = {listener["name"]: listener["bind"] for listener in file["listeners"]}
        self.assertEqual(binds, {name: f"0.0.0.0:{ports[name]}" for name in ("live", "preview")})

    def test_they_spread_over_nodes_and_one_may_go_at_a_time(self):
        things = objects(SHOP)
        spread = pod(things)["topologySpreadConstraints"]
        self.assertEqual([rule["topologyKey"] for rule in spread], ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
        labels = only(things, "Deployment")["spec"]["template"]["metadata"]["labels"]
        for rule in spread:
            self.assertLessEqual(rule["labelSelector"]["matchLabels"].items(), labels.items())
        self.assertEqual(only(things, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1)
        self.assertNotIn("PodDisruptionBudget", {kind for kind, _ in objects(SHOP, {"replicas": 1})})

    def test_state_that_outlives_the_pod_is_each_pod_s_own(self):
        things = objects(SHOP, {"state": {"kind": "persistent", "size": "1Gi", "storageClass": "fast"}})
        stateful = only(things, "StatefulSet")["spec"]
        [claim] = stateful["volumeClaimTemplates"]
        self.assertEqual((claim["spec"]["storageClassName"], claim["spec"]["accessModes"]), ("fast", ["ReadWriteOnce"]))
        self.assertIn(("Service", stateful["serviceName"]), things)
        self.assertNotIn("state", [volume["name"] for volume in stateful["template"]["spec"]["volumes"]])
        self.assertIn("state", [volume["name"] for volume in pod(objects(SHOP))["volumes"]])

    def test_every_selector_finds_the_pods_and_nothing_else(self):
        things = objects(SHOP, {"admin": {"enabled": True, "existingSecret": "tokens"}, "metrics": {"serviceMonitor": {"enabled": True}}})
        labels = only(things, "Deployment")["spec"]["template"]["metadata"]["labels"]
        test = only(things, "Pod")["metadata"]["labels"]
        selectors = [thing["spec"]["selector"] for (kind, _), thing in things.items() if kind == "Service"]
        selectors += [only(things, kind)["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
        selectors.append(only(things, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
        self.assertEqual(len(selectors), 4 + 2 + 1)
        for selector in selectors:
            self.assertLessEqual(selector.items(), labels.items())
            self.assertFalse(selector.items() <= test.items(), selector)
        monitored = only(things, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
        found = [name for (kind, name), thing in things.items() if kind == "Service" and monitored.items() <= thing["metadata"]["labels"].items()]
        self.assertEqual(found, ["tealgate-health"])


class Configuration(Test):
    def test_apps_are_what_the_values_say_word_for_word(self):
        apps = {"here": {"hosts": ["a.test"], "source": {"kubernetes": {"rollout": "a", "port": 8080}}, "weight": "5%"}}
        self.assertEqual(yaml.safe_load(configuration(objects({"apps": apps}).values()))["apps"], apps)

    def test_settings_of_listeners_arrive_and_cannot_undo_what_the_chart_needs(self):
        listeners = {
            "live": {"settings": {"timeouts": {"idle": "90s"}, "trusted_proxies": ["10.0.0.0/8"]}},
            "liveTls": {"enabled": True, "secrets": ["shop-tls", "other"], "tls": {"min_version": "1.3"}},
            "preview": {"enabled": False},
        }
        things = objects(SHOP, {"listeners": listeners})
        plain, tls = yaml.safe_load(configuration(things.values()))["listeners"]
        self.assertEqual(plain, {"name": "live", "bind": "0.0.0.0:8080", "timeouts": {"idle": "90s"}, "trusted_proxies": ["10.0.0.0/8"]})
        self.assertEqual([pair["cert"] for pair in tls["tls"]["certificates"]], ["/etc/tealgate-tls/shop-tls/tls.crt", "/etc/tealgate-tls/other/tls.crt"])
        self.assertEqual((tls["bind"], tls["tls"]["min_version"]), ("0.0.0.0:8443", "1.3"))
        self.assertNotIn(("Service", "tealgate-preview"), things)
        ports = things["Service", "tealgate"]["spec"]["ports"]
        self.assertEqual([(port["port"], port["targetPort"]) for port in ports], [(80, "live"), (443, "live-tls")])

    def test_the_admin_api_answers_to_its_service_s_names_and_wants_tokens(self):
        entry = {"name": "ci", "sha256": "0" * 64, "role": "operator", "apps": ["shop"]}
        things = objects(SHOP, {"admin": {"enabled": True, "tokens": [entry], "hosts": ["gate.example.com"]}})
        admin = yaml.safe_load(configuration(things.values()))["admin"]
        self.assertEqual(
            admin["hosts"],
            ["tealgate-admin", "tealgate-admin.shop", "tealgate-admin.shop.svc", "tealgate-admin.shop.svc.cluster.local", "gate.example.com"],
        )
        self.assertEqual(yaml.safe_load(only(things, "Secret")["stringData"]["tokens.yaml"]), {"tokens": [entry]})
        self.assertRefused("admin.enabled wants admin.tokens", render, SHOP, {"admin": {"enabled": True}})

    def test_a_whole_file_is_taken_as_it_is_and_rights_are_made_from_it(self):
        file = "listeners:\n  - { name: live, bind: '0.0.0.0:8080' }\nhealth: { bind: '0.0.0.0:7181' }\napps:\n  shop: { source: { kubernetes: { namespace: far, rollout: shop } } }\n"
        things = objects({"rawConfig": file})
        self.assertEqual(configuration(things.values()).strip(), file.strip())
        self.assertEqual(rights(things, "far")["argoproj.io", "rollouts", "patch"], ["shop"])

    def test_mistakes_are_told_before_anything_reaches_the_cluster(self):
        shop = SHOP["apps"]["shop"]
        for words, values in [
            ("No app, so nothing to serve", {}),
            ("rawConfig is not YAML", {"rawConfig": "apps: ["}),
            ("liveTls wants secrets", {**SHOP, "listeners": {"liveTls": {"enabled": True}}}),
            ("write the namespace and the rollout out", {"apps": {"shop": {"source": {"kubernetes": {"rollout": "${APP}"}}}}}),
            # By the schema, down to Tealgate's own keys.
            ("/apps/shop/source/kubernetes", {"apps": {"shop": {"source": {"kubernetes": {"rolout": "shop"}}}}}),
            ("/apps/shop", {"apps": {"shop": {**shop, "helth": {}}}}),
            ("/apps/shop/drain/timeout", {"apps": {"shop": {**shop, "drain": {"timeout": 30}}}}),
            ("/mode", {**SHOP, "mode": "both"}),
            ("/replicas", {**SHOP, "replicas": -1}),
            ("replica", {**SHOP, "replica": 3}),
            ("/listeners/live/port", {**SHOP, "listeners": {"live": {"port": 80}}}),
            ("/listeners/live/settings", {**SHOP, "listeners": {"live": {"settings": {"bind": "0.0.0.0:1"}}}}),
            ("/image/digest", {**SHOP, "image": {"digest": "latest"}}),
            ("/admin/tokens/0", {**SHOP, "admin": {"tokens": [{"name": "ann", "token": "tg_secret"}]}}),
        ]:
            with self.subTest(words):
                self.assertRefused(words, render, values)


class Network(Test):
    def test_everybody_comes_to_the_live_port_and_only_neighbours_to_the_admin_api(self):
        things = objects(SHOP, {"admin": {"enabled": True, "existingSecret": "tokens"}})
        rules = only(things, "NetworkPolicy")["spec"]["ingress"]
        sources = {rule["ports"][0]["port"]: rule.get("from") for rule in rules[:-1]}
        anybody_here = [{"namespaceSelector": {}}]
        self.assertEqual(sources, {"live": None, "preview": anybody_here, "admin": [{"podSelector": {}}], "health": anybody_here})

    def test_the_way_out_leads_to_dns_the_api_server_and_the_apps(self):
        apps = {"a": {"source": {"kubernetes": {"namespace": "one", "rollout": "a"}}}, "b": {"source": {"kubernetes": {"namespace": "two", "rollout": "b"}}}}
        policy = only(objects({"apps": apps, "networkPolicy": {"egress": {"enabled": True}}}), "NetworkPolicy")["spec"]
        self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
        dns, server, pods = policy["egress"]
        self.assertEqual({port["port"] for port in dns["ports"]}, {53})
        self.assertEqual([port["port"] for port in server["ports"]], [443, 6443])
        self.assertEqual(pods["to"][0]["namespaceSelector"]["matchExpressions"][0]["values"], ["one", "two"])


class Names(Test):
    def test_two_releases_do_not_meet(self):
        far = {"apps": {"shop": {"source": {"kubernetes": {"namespace": "far", "rollout": "shop"}}}}}
        names = [
            {(kind, name, thing["metadata"].get("namespace")) for (kind, name), thing in objects(far, release=release, namespace=namespace).items()}
            for release, namespace in [("tealgate", "one"), ("tealgate", "two"), ("other", "one")]
        ]
        self.assertFalse(names[0] & names[1] | names[0] & names[2] | names[1] & names[2])

    def test_labels_and_annotations_of_one_s_own_are_on_everything(self):
        mine = {"commonLabels": {"team": "shop"}, "commonAnnotations": {"contact": "ann"}}
        for thing in documents(render(SHOP, mine)):
            self.assertEqual(thing["metadata"]["labels"].get("team"), "shop", thing["kind"])
        things = objects(SHOP, mine)
        self.assertEqual(only(things, "Deployment")["spec"]["template"]["metadata"]["annotations"], {"contact": "ann"})
        self.assertNotIn("team", only(things, "Deployment")["spec"]["selector"]["matchLabels"])

    def test_a_digest_wins_over_a_tag(self):
        image = {"repository": "registry.example.com/tealgate", "tag": "1", "digest": "sha256:" + "a" * 64}
        [container] = pod(objects(SHOP, {"image": image}))["containers"]
        self.assertEqual(container["image"], "registry.example.com/tealgate@" + image["digest"])
