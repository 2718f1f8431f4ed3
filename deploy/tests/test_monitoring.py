"""The alerts and the dashboard, by Prometheus' own tool. That their metrics are ours is held by `cargo test`."""

import json

import yaml

from support import CHART, DEPLOY, SHOP, Test, objects, only, run

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"


def alerts():
    return [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


class Alerts(Test):
    def test_they_are_rules_and_fire_when_they_should(self):
        run("promtool", "check", "rules", "--lint=all", "--lint-fatal", ALERTS)
        run("promtool", "test", "rules", DEPLOY / "prometheus" / "alerts_test.yaml")

    def test_each_has_been_seen_firing(self):
        seen = (DEPLOY / "prometheus" / "alerts_test.yaml").read_text()
        self.assertEqual([alert for alert in alerts() if f'alertname="{alert}"' not in seen], [])

    def test_the_chart_carries_them_as_they_are_but_for_those_not_wanted(self):
        def carried(**values):
            rules = only(objects(SHOP, {"metrics": {"prometheusRule": {"enabled": True, **values}}}), "PrometheusRule")
            return rules["spec"], rules["metadata"]["labels"]

        spec, labels = carried(labels={"release": "prometheus"})
        self.assertEqual(spec, yaml.safe_load(ALERTS.read_text()))
        self.assertEqual(labels["release"], "prometheus")
        fewer = [rule["alert"] for group in carried(disabled=["TealgateAbsent"])[0]["groups"] for rule in group["rules"]]
        self.assertEqual(fewer, [alert for alert in alerts() if alert != "TealgateAbsent"])


class Dashboard(Test):
    def test_the_chart_carries_it_as_it_is(self):
        things = objects(SHOP, {"metrics": {"dashboard": {"enabled": True, "annotations": {"folder": "Edge"}}}})
        carried = things["ConfigMap", "tealgate-dashboard"]
        self.assertEqual(json.loads(carried["data"]["tealgate.json"]), json.loads(DASHBOARD.read_text()))
        self.assertEqual((carried["metadata"]["labels"]["grafana_dashboard"], carried["metadata"]["annotations"]), ("1", {"folder": "Edge"}))

    def test_its_panels_stand_side_by_side_and_say_what_they_show(self):
        panels = json.loads(DASHBOARD.read_text())["panels"]
        taken, ids = {}, set()
        for panel in panels:
            self.assertNotIn(panel["id"], ids)
            ids.add(panel["id"])
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
                self.assertNotIn(cell, taken, f"{panel['title']} covers {taken.get(cell)}")
                taken[cell] = panel["title"]

    def test_its_queries_are_promql(self):
        expressions = []

        def collect(node):
            if isinstance(node, dict):
                expressions.extend(value for key, value in node.items() if key == "expr")
                node = list(node.values())
            if isinstance(node, list):
                for child in node:
                    collect(child)

        collect(json.loads(DASHBOARD.read_text()))
        self.assertGreater(len(expressions), 30)
        filled = [text.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$", "") for text in expressions]
        rules = {"groups": [{"name": "panels", "rules": [{"record": f"panel:{index}", "expr": text} for index, text in enumerate(filled)]}]}
        run("promtool", "check", "rules", "--lint=none", stdin=yaml.safe_dump(rules))
