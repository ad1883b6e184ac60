# SPDX-License-Identifier: Apache-2.0
"""Prometheus evaluates the alerts and the queries of the dashboard on the metrics of a server."""

import enum
import json
import math
import re
import shlex
import shutil
import socket
import subprocess
import time
import typing
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import Runtime
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.api.over_http import OverTcp, ask, port_that_is_free
from tests.cli.process import HEARTBEAT, beat, connected, started
from tests.docs.examples import example

from .serving import Server, get, serving, until
from .test_prometheus import Prometheus, scraping

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/nitrohb.rules.yml"
RULES_TEST = DEPLOY / "prometheus/nitrohb.rules.test.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/nitrohb.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
NAMES = [alert["alert"] for alert in ALERTS]


def promtool(*args: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True)


def page(test: str) -> str:
    return example("how-to/monitoring.md", f"tests/proofs/test_monitoring.py::{test}")


def test_promtool_finds_the_rules_right() -> None:
    done = promtool("check", "rules", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stderr
    done = promtool("test", "rules", RULES_TEST)
    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stderr


def test_promtool_finds_the_example_configuration_right() -> None:
    done = promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
    assert done.returncode == 0, done.stderr


def test_the_metrics_are_there(tmp_path: Path) -> None:
    """Run the commands of the page, on a free port and a Unix socket."""
    serve, curl = page("test_the_metrics_are_there").splitlines()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    program, *args = shlex.split(serve.removesuffix(" &").replace("9180", port))
    assert program == "nitrohb"
    with started(*args, "-l", f"unix:{tmp_path}/hb") as server:
        assert "nitro_listening" in server.line()
        command = [*shlex.split(curl.replace("9180", port)), "--retry", "9", "--retry-connrefused"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "\nnitrohb_pending 0.0\n" in done.stdout


def test_systemd_puts_a_port_in_front_of_the_unix_socket(tmp_path: Path) -> None:
    """With the program of nitrohb-metrics.service, started as its socket unit would start it."""
    socket_unit, service = (
        (DEPLOY / f"systemd/nitrohb-metrics.{kind}").read_text() for kind in ("socket", "service")
    )
    (listen,) = re.findall(r"^ListenStream=(.*):9180$", socket_unit, re.MULTILINE)
    (command,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    api = tmp_path / "api.sock"
    port = port_that_is_free()
    program = command.replace("/run/nitrohb/api.sock", str(api)).split()
    assert str(api) in program
    activate = ("systemd-socket-activate", "-l", f"{listen}:{port}", *program)
    with (
        started("serve", "--keep", "-l", f"unix:{tmp_path}/hb", "--api", f"unix:{api}") as server,
        started(command=activate, stderr=subprocess.DEVNULL),
    ):
        assert "nitro_listening" in server.line()
        until(lambda: get(port, "/readyz")[0], 200)
        status, figures = get(port, "/metrics")
    assert (status, b"\nnitrohb_pending 0.0\n" in figures) == (200, True)


def test_each_alert_says_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("warning", "critical"), alert
        assert alert["annotations"]["summary"], alert
        assert len(alert["annotations"]["description"]) > 100, alert


def test_the_page_names_the_critical_alerts() -> None:
    text = (DEPLOY.parent / "docs/how-to/monitoring.md").read_text()
    (named,) = re.findall(r"^(`Nitrohb.*) are critical\.", text, re.MULTILINE)
    critical = [alert["alert"] for alert in ALERTS if alert["labels"]["severity"] == "critical"]
    assert sorted(re.findall(r"`(\w+)`", named)) == sorted(critical)


def test_each_alert_has_tests_with_and_without_the_alert() -> None:
    """promtool compares their results, in the test above."""
    fires: dict[str, set[bool]] = {name: set() for name in NAMES}
    for test in yaml.safe_load(RULES_TEST.read_text())["tests"]:
        for asked in test.get("alert_rule_test", []):
            fires[asked["alertname"]].add(bool(asked.get("exp_alerts")))
    assert [name for name, seen in fires.items() if seen != {True, False}] == []


@contextmanager
def watched(directory: Path, *options: str) -> Generator[tuple[Server, Path, Prometheus]]:
    """A server, its address, and a Prometheus with the alerts, configured for the DaemonSet.

    Prometheus of Debian does not support Kubernetes. So a file has the labels that Kubernetes would
    give a pod. The rest is the configuration of deploy/.
    """
    path = directory / "hb"
    with serving(path, options=options) as server:
        name, node = (f"__meta_kubernetes_pod_{of}" for of in ("container_port_name", "node_name"))
        found = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {name: of, node: "parent-1"}}
            for port, of in ((server.port, "api"), (1, "other"))
        ]
        (directory / "pods.json").write_text(json.dumps(found))
        config = yaml.safe_load((DEPLOY / "prometheus/kubernetes.yml").read_text())
        assert config["scrape_configs"][0].pop("kubernetes_sd_configs")
        config["scrape_configs"][0]["file_sd_configs"] = [{"files": ["pods.json"]}]
        shutil.copy(RULES, directory)
        text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
        with scraping(directory, text) as prometheus:
            prometheus.until("sum by (job, instance) (up)", {("parent-1", "nitrohb"): 1})
            yield server, path, prometheus


def test_a_pod_is_found_and_its_problems_fire_alerts(tmp_path: Path) -> None:
    options = ("--max-pending=4", "--handshake-timeout=0.5")
    with watched(tmp_path, *options) as (server, path, prometheus):
        assert beat(path) == HEARTBEAT
        nothing: dict[str, str] = {}
        until(prometheus.alerts, nothing)
        assert beat(path, b"\x00") == b""
        with OverTcp(server.port) as client:
            assert ask(client, "POST", "/claims", {"max_age": 0.001, "timeout": 0.1})[0] == 504
        for _ in range(8):
            with connected(path):
                pass
        with ExitStack() as flood:
            silent = [flood.enter_context(connected(path)) for _ in range(20)]
            assert [client.recv(1) for client in silent] == [b""] * 20  # after the deadline
        until(
            prometheus.alerts,
            {
                "NitrohbWrongByte": "firing",
                "NitrohbClaimTimeouts": "firing",
                "NitrohbConnectionsWithoutByte": "firing",
                "NitrohbSilentConnections": "firing",
                "NitrohbFlood": "pending",
            },
        )
        server.end()
        until(lambda: prometheus.alerts().get("NitrohbDown", ""), "pending")


@pytest.fixture(scope="module")
def sdk() -> None:
    """Tell Grafana's SDK the fields of panels and queries."""
    register_default_plugins()


@pytest.mark.usefixtures("sdk")
def test_grafana_knows_all_of_the_dashboard() -> None:
    """Grafana's own SDK keeps the fields that it knows, and has their types."""
    assert list(mistakes(DASHBOARD)) == []


@pytest.mark.usefixtures("sdk")
def test_a_mistake_in_the_dashboard_is_found() -> None:
    ours = json.dumps(DASHBOARD)
    for right, wrong in (
        ('"legendFormat"', '"legendFormt"'),
        ('"gridPos"', '"gridPosition"'),
        ('"type": "stat"', '"type": "stats"'),
        ('"type": "prometheus"', '"type": "promotheus"'),
        ('"colorMode": "value"', '"colorMode": "values"'),
        ('"refresh": "', '"refresh": 5, "was": "'),
        ('"schemaVersion": 39', '"schemaVersion": "x"'),
    ):
        assert right in ours
        assert list(mistakes(json.loads(ours.replace(right, wrong, 1)))), wrong


def mistakes(dashboard: Any) -> Iterator[str]:
    """Return the parts of a dashboard that Grafana's SDK does not know."""
    known = Dashboard.from_json(dashboard)
    yield from lost(dashboard, json.loads(JSONEncoder().encode(known)))
    yield from misfits(known)
    plugins = Runtime()
    for panel in dashboard["panels"]:
        if plugins.panelcfg_config(panel["type"]) is None:
            yield f"panel {panel['title']} of type {panel['type']}"
    for source in re.findall(r'"datasource": {"type": "([^"]*)"', json.dumps(dashboard)):
        if source not in plugins.dataquery_variants:
            yield f"a data source of type {source}"


def misfits(known: object, at: str = "") -> Iterator[str]:
    """Return the values that do not have the type of the SDK's annotations."""
    if isinstance(known, list):
        for number, one in enumerate(cast("list[object]", known)):
            yield from misfits(one, f"{at}/{number}")
    elif type(known).__module__.startswith("grafana_foundation_sdk."):
        for name, hint in typing.get_type_hints(type(known)).items():
            value = getattr(known, name)
            if not fits(value, hint):
                yield f"{at}/{name}: {value!r}"
            yield from misfits(value, f"{at}/{name}")


def fits(value: Any, hint: Any) -> bool:
    of, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if of is typing.Union:
        return any(fits(value, one) for one in args)
    if of is typing.Literal:
        return value in args
    if isinstance(of, enum.EnumType):
        return value in {one.value for one in cast("type[enum.Enum]", of)}
    if of is list and isinstance(value, list):
        return all(fits(one, args[0]) for one in cast("list[object]", value))
    if isinstance(value, bool):  # isinstance() takes a bool for an int
        return of in (bool, object, typing.Any)
    return of is typing.Any or isinstance(value, (int, float) if of is float else of)


def lost(ours: Any, known: Any, at: str = "") -> Iterator[str]:
    """Return what one value has and the other lacks."""
    if isinstance(ours, dict) and isinstance(known, dict):
        fields, others = cast("dict[str, object]", ours), cast("dict[str, object]", known)
        for key, value in fields.items():
            yield from lost(value, others.get(key), f"{at}/{key}")
    elif isinstance(ours, list) and isinstance(known, list):
        values, there = cast("list[object]", ours), cast("list[object]", known)
        for number, value in enumerate(values):
            other = there[number] if number < len(there) else None
            yield from lost(value, other, f"{at}/{number}")
    elif ours != known:
        yield at


def test_each_query_of_the_dashboard_returns_data(tmp_path: Path) -> None:
    queries = {
        f"{panel['title']}: {target['expr']}": fill_in(target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }
    assert len(queries) >= 20
    options = ("--max-pending=2",)
    with watched(tmp_path, *options) as (server, path, prometheus):
        with OverTcp(server.port) as launcher:
            launcher.request("POST", "/claims", "{}")
            for _ in range(3):  # by then it waits
                assert server.get("/healthz")[0] == 200
            assert beat(path) == HEARTBEAT
            assert launcher.getresponse().status == 200
        waiting = dict(queries)
        deadline = time.monotonic() + 30
        while waiting:
            assert time.monotonic() < deadline, f"no answer to {waiting}"
            beat(path)
            answered = [of for of, promql in waiting.items() if has_data(prometheus, promql)]
            for of in answered:
                del waiting[of]
            time.sleep(0.1)
        for variable in DASHBOARD["templating"]["list"][1:]:
            label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert label
            assert len(prometheus.query(f"group by ({label[2]}) ({fill_in(label[1])})")) == 1
        # This one returns data only after a restart of the server.
        (restarts,) = DASHBOARD["annotations"]["list"]
        assert prometheus.query(fill_in(restarts["expr"])) == {}


def has_data(prometheus: Prometheus, promql: str) -> bool:
    values = prometheus.query(promql).values()
    return bool(values) and all(map(math.isfinite, values))


def fill_in(expr: str) -> str:
    """Return a query with a value for each of Grafana's variables."""
    for variable, value in {
        "$__rate_interval": "1m",
        "$__range": "1h",
        "$job": ".*",
        "$instance": ".*",
    }.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr
    return expr


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
