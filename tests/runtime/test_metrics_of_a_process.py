"""What a real process tells Prometheus, and that the dashboard, the alert rules and the README ask for just that."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import Metric, parser

from tests.conftest import Perdure

DASHBOARDS = Path(__file__).parents[2] / "runtime" / "dashboards"
NAME = re.compile(r"\b(?:perdure|process)_\w+")
SELECTED = re.compile(r"(\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
LIMITED = """
from perdure.objects import Limits, Rate, Service, handler

class Limited(Service, limits=Limits(running=1, steps=1, rate=Rate(count=1))):
    @handler
    async def ask(self) -> None: ...
"""
OF_PROMETHEUS = {"instance", "job"}


async def families_of(perdure: Perdure) -> dict[str, Metric]:
    await perdure.serving()
    [serving] = [event for event in perdure.events if event.get("event") == "serving"]
    async with aiohttp.ClientSession() as session, session.get(f"{serving['admin']}/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return {family.name: family for family in parser.text_string_to_metric_families(await response.text())}


def labels_of(families: dict[str, Metric]) -> dict[str, set[str]]:
    """By the names of samples, as queries have them."""
    labels: dict[str, set[str]] = {}
    for family in families.values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def values(families: dict[str, Metric], name: str) -> list[float]:
    return [sample.value for family in families.values() for sample in family.samples if sample.name == name]


@pytest.fixture
async def scrape(perdure: Callable[..., Perdure], tmp_path: Path) -> AsyncIterator[dict[str, Metric]]:
    """Of a process that was called a few times, and scraped once before."""
    (tmp_path / "limited.py").write_text(LIMITED)
    process = perdure("examples/counter.py", str(tmp_path / "limited.py"))
    await process.start()
    for _ in range(3):
        assert (await process.call("/Counter/a/add", 2)).status == 200
    assert (await process.call("/Counter/a/subtract", 2)).status == 404
    await families_of(process)
    yield await families_of(process)
    assert await process.stop() == 0


def expressions() -> dict[str, str]:
    """All that is asked of Prometheus, by where it stands."""
    dashboard = json.loads((DASHBOARDS / "grafana.json").read_text())
    rules = yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())
    found = {
        f"panel {panel['title']}, {target['legendFormat']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    found.update({f"variable {one['name']}": one.get("definition", "") for one in dashboard["templating"]["list"]})
    found.update({f"alert {rule['alert']}": rule["expr"] for group in rules["groups"] for rule in group["rules"]})
    return found


async def test_a_process_tells_of_its_disk_its_loop_and_its_servers(scrape: dict[str, Metric]) -> None:
    """Each answer waited for a sync, so there were three at least, of two records each."""
    [syncs] = values(scrape, "perdure_journal_sync_duration_seconds_count")
    [seconds] = values(scrape, "perdure_journal_sync_duration_seconds_sum")
    by_status = {
        (sample.labels["server"], sample.labels["status"]): sample.value
        for sample in scrape["perdure_http_responses"].samples
    }
    [build] = scrape["perdure_build_info"].samples

    assert syncs >= 3
    assert 0 < seconds < 60
    assert values(scrape, "perdure_journal_batch_records_sum") == values(scrape, "perdure_journal_records_total") == [6]
    assert values(scrape, "perdure_journal_segments") == [1]
    assert values(scrape, "perdure_checkpoint_lag_records") == [6]
    assert values(scrape, "perdure_journal_full") == values(scrape, "perdure_store_full") == [0]
    assert by_status == {("ingress", "200"): 3, ("ingress", "404"): 1, ("admin", "200"): 1}
    assert build.labels["python_version"].startswith("3.")
    assert "perdure_loop_lag_seconds" in scrape
    assert values(scrape, "process_resident_memory_bytes")[0] > 1e6


async def test_the_dashboard_and_the_rules_ask_for_what_there_is(scrape: dict[str, Metric]) -> None:
    """Each name and each label in a query is in a real scrape."""
    labels = labels_of(scrape)
    asked = expressions()

    unknown = {where: set(NAME.findall(text)) - labels.keys() for where, text in asked.items()}
    misnamed = {
        where: names
        for where, text in asked.items()
        for metric, selector in SELECTED.findall(text)
        if metric != "up" and (names := set(LABEL.findall(selector)) - labels[metric] - OF_PROMETHEUS)
    }

    assert len(asked) > 40
    assert {where: names for where, names in unknown.items() if names} == {}
    assert misnamed == {}


async def test_the_readme_names_every_metric(scrape: dict[str, Metric]) -> None:
    """With its labels; the table and a scrape are one list."""
    rows = re.findall(r"^\| `(perdure_\w+)` \|([^|]*)\|", (DASHBOARDS / "README.md").read_text(), re.MULTILINE)
    labels = labels_of(scrape)

    def told(family: Metric) -> tuple[str, set[str]]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        return name, labels[f"{name}_bucket" if family.type == "histogram" else name] - {"le"}

    assert {name: set(re.findall(r"\w+", text)) for name, text in rows} == dict(
        told(family) for name, family in scrape.items() if name.startswith("perdure_")
    )


def test_each_alert_says_what_happened_and_what_to_do() -> None:
    """And the files are what Grafana and Prometheus read: ids and names that are there once."""
    rules: list[dict[str, Any]] = [
        rule for group in yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]
    ids = [panel["id"] for panel in json.loads((DASHBOARDS / "grafana.json").read_text())["panels"]]

    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in rules)
    assert all(rule["labels"]["severity"] in ("page", "ticket") for rule in rules)
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert len(set(ids)) == len(ids)
