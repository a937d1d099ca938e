"""`perdure serve --traces`, a real process, with a collector that it sends to: also when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode

from perdure.objects import VirtualObject, handler
from perdure.runtime import Client
from perdure.runtime.trace_spans import INTERNAL, LENGTH, TracedSpan, pack_spans

from .collector import WAIT_SECONDS, Collector, collecting

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"

MODULE = """
import asyncio, logging, pathlib
import structlog
from perdure.objects import Service, TerminalError, VirtualObject, current_step, handler

class Order(VirtualObject):
    @handler
    async def place(self, folder: str) -> str:
        structlog.get_logger("shop").warning("in the handler")
        first = await self.ctx.run(charge, folder)
        await self.ctx.ref(Stock).take()
        await self.ctx.run(wait_for_it, folder)
        self.ctx.ref(Stock).told.send()
        return first

    @handler
    async def fail(self) -> None:
        raise TerminalError("sold out")

class Stock(Service):
    @handler
    async def take(self) -> None: ...

    @handler
    async def told(self) -> None: ...

async def charge(folder: str) -> str:
    from opentelemetry import trace
    current_step().log.warning("in the step")
    logging.getLogger("shop").warning("in the step, by logging")
    with trace.get_tracer("shop").start_as_current_span("by the step's code"):
        (pathlib.Path(folder) / "charged").write_text("x")
    return "charged"

async def wait_for_it(folder: str) -> None:
    (pathlib.Path(folder) / "waiting").touch()
    while not (pathlib.Path(folder) / "go").exists():
        await asyncio.sleep(0.01)
"""


class Order(VirtualObject):
    """As the client sees it."""

    @handler
    async def fail(self) -> None: ...


class Served:
    """A running process: its events and its ingress."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.events: list[dict[str, Any]] = []
        self.address = str(self.wait_for("serving")["ingress"])

    def wait_for(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"no {name!r} among {self.events}")

    def post(self, path: str, body: object = None, **headers: str) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data=data, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
            return json.load(response)

    def attach(self, id: str) -> Any:
        with urllib.request.urlopen(f"{self.address}/restate/attach/{id}", timeout=WAIT_SECONDS) as response:
            return json.load(response)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})
        return self.popen.wait(WAIT_SECONDS)


Serve = Callable[..., AbstractContextManager[Served]]


def command(folder: Path, *options: str) -> list[str]:
    serve = [sys.executable, "-m", "perdure.runtime", "serve", str(folder / "shop.py"), "--data-dir"]
    ports = ["--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    return [*serve, str(folder / "data"), *ports, "--log-format", "json", *options]


def without_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    (tmp_path / "shop.py").write_text(MODULE)

    @contextmanager
    def serve(collector_url: str, *options: str, **variables: str) -> Generator[Served]:
        environment = {
            **without_variables(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url,
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            **variables,
        }
        popen = subprocess.Popen(
            command(tmp_path, *(options or ("--traces",))),
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        guard = threading.Timer(WAIT_SECONDS, popen.kill)
        guard.start()
        try:
            yield Served(popen)
        finally:
            guard.cancel()
            popen.kill()
            popen.wait()
            assert popen.stderr is not None
            popen.stderr.close()

    return serve


@pytest.fixture
def collector() -> Generator[Collector]:
    with collecting() as collector:
        yield collector


def wait_until_there(path: Path) -> None:
    for _ in range(6_000):
        if path.exists():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"no {path}")


def test_a_kill_in_the_middle_of_a_handler_leaves_one_trace_with_each_span_once(
    serve: Serve, collector: Collector, tmp_path: Path
) -> None:
    """What was told before the kill is not told again, what began before it is whole, and all ids fit."""
    header = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "shop=1"}
    with serve(collector.url) as served:
        id = served.post("/Order/a/place/send", str(tmp_path), **header)["invocationId"]
        in_handler, in_step = served.wait_for("in the handler"), served.wait_for("in the step")
        by_logging = served.wait_for("in the step, by logging")
        wait_until_there(tmp_path / "waiting")
        collector.wait_for("charge", "Stock/take", "by the step's code")
        served.kill()
    before = collector.names
    assert "Order/place" not in before

    with serve(collector.url) as served:
        (tmp_path / "go").touch()
        assert served.attach(id) == "charged"
        collector.wait_for("Order/place", "Stock/told")
        assert served.stop() == 0

    assert sorted(collector.names) == [
        "Order/place",
        "Stock/take",
        "Stock/told",
        "by the step's code",
        "call Stock/take",
        "charge",
        "send Stock/told",
        "wait_for_it",
        "wait_for_it failed",
    ]
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert {span.trace_state for span in collector.spans} == {"shop=1"}
    names = {span.span_id: span.name for span in collector.spans} | {bytes.fromhex(CALLER): "the caller"}
    assert {span.name: names[span.parent_span_id] for span in collector.spans} == {
        "Order/place": "the caller",
        "charge": "Order/place",
        "by the step's code": "charge",
        "call Stock/take": "Order/place",
        "Stock/take": "call Stock/take",
        "wait_for_it": "Order/place",
        "wait_for_it failed": "wait_for_it",
        "send Stock/told": "Order/place",
        "Stock/told": "send Stock/told",
    }
    whole = collector.named("Order/place")
    assert all(whole.start_time_unix_nano <= span.start_time_unix_nano for span in collector.spans)
    assert whole.end_time_unix_nano >= collector.named("wait_for_it").end_time_unix_nano
    ids = {"invocation": id, "trace_id": TRACE}
    assert [{name: event[name] for name in ids} for event in (in_handler, in_step, by_logging)] == [ids] * 3
    assert "in the handler" not in [event["event"] for event in served.events]
    assert (tmp_path / "charged").read_text() == "x"


def test_what_has_left_a_process_that_is_killed_is_sent(collector: Collector) -> None:
    """Whole batches, at once; not what the kill cut off in the middle."""
    spans = [TracedSpan(f"span {n}", INTERNAL, b"t" * 16, bytes([n]) * 8, b"", False, n, n, {}) for n in range(1, 4)]
    data = pack_spans(spans)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    environment = {**without_variables(), **variables}
    sender = subprocess.Popen(
        [sys.executable, "-m", "perdure.runtime.trace_sender", "json", "info"], stdin=subprocess.PIPE, env=environment
    )
    assert sender.stdin is not None

    sender.stdin.write(LENGTH.pack(len(data)) + data + LENGTH.pack(len(data)) + data[:-1])
    sender.stdin.close()

    assert sender.wait(WAIT_SECONDS) == 0
    assert collector.names == ["span 1", "span 2", "span 3"]


async def test_a_client_passes_its_span_on(serve: Serve, collector: Collector) -> None:
    """The one that is current where it calls, if its program has OpenTelemetry at all."""
    with serve(collector.url, OTEL_SERVICE_NAME="my-shop") as served:
        with TracerProvider().get_tracer("program").start_as_current_span("outer") as outer:
            async with Client(served.address) as client:
                with pytest.raises(Exception, match="sold out"):
                    await client.ref(Order, "a").fail()
        collector.wait_for("Order/fail")

    span = collector.named("Order/fail")
    context = outer.get_span_context()
    assert int.from_bytes(span.trace_id) == context.trace_id
    assert int.from_bytes(span.parent_span_id) == context.span_id
    assert span.status.code == 2
    assert (span.status.message, [event.name for event in span.events]) == ("TerminalError: sold out", ["exception"])
    assert collector.services >= {"my-shop"}
    assert collector.paths == {"/v1/traces"}
    assert StatusCode.ERROR.value == span.status.code


def test_a_collector_that_is_not_there_costs_spans_and_one_line(serve: Serve) -> None:
    with collecting() as gone:
        url = gone.url
    with serve(url, OTEL_EXPORTER_OTLP_TIMEOUT="1") as served:
        for _ in range(50):
            assert served.post("/Stock/take") is None
        served.wait_for("spans_lost")
        for _ in range(50):
            assert served.post("/Stock/take") is None
        assert served.stop() == 0

    events = [event["event"] for event in served.events]
    assert events.count("spans_lost") <= 2  # the second: what is left at the end
    assert not [event for event in served.events if "opentelemetry" in str(event.get("logger"))]


@pytest.mark.parametrize(
    ("variable", "value", "event"),
    [("OTEL_SDK_DISABLED", "true", "no_traces"), ("OTEL_TRACES_EXPORTER", "none", "no_traces")],
)
def test_the_environment_can_turn_traces_off(
    serve: Serve, collector: Collector, variable: str, value: str, event: str
) -> None:
    with serve(collector.url, **{variable: value}) as served:
        served.post("/Stock/take")
        assert served.stop() == 0

    assert event in [one["event"] for one in served.events]
    assert collector.spans == []


def test_what_the_sampler_leaves_out_is_not_sent(serve: Serve, collector: Collector) -> None:
    with serve(collector.url, OTEL_TRACES_SAMPLER="parentbased_always_off") as served:
        served.post("/Stock/take")
        served.post("/Stock/told", traceparent=f"00-{TRACE}-{CALLER}-01")
        assert served.stop() == 0

    assert collector.names == ["Stock/told"]


def started_without(folder: Path, *options: str, **variables: str) -> tuple[int, str]:
    """A start that is refused: its exit code, and its last line."""
    (folder / "shop.py").write_text(MODULE)
    ended = subprocess.run(
        command(folder, *options),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        cwd=folder,
        env={**without_variables(), **variables},
    )
    return ended.returncode, ended.stderr


def hidden(folder: Path) -> str:
    """A folder for PYTHONPATH, under which OpenTelemetry is not installed."""
    (folder / "hiding").mkdir()
    (folder / "hiding" / "opentelemetry.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'opentelemetry'\")"
    )
    return str(folder / "hiding")


def test_without_the_extra_the_start_says_how_to_install_it(tmp_path: Path) -> None:
    code, said = started_without(tmp_path, "--traces", PYTHONPATH=hidden(tmp_path))

    assert code == 2
    assert len(said.splitlines()) == 1
    assert "pip install 'perdure[traces]'" in said
    assert not (tmp_path / "data" / "journal").exists()


def test_without_traces_the_extra_is_not_needed(serve: Serve, collector: Collector, tmp_path: Path) -> None:
    """Nothing of it is imported."""
    with serve(collector.url, "--drain-grace", "1", PYTHONPATH=hidden(tmp_path)) as served:
        assert served.post("/Stock/take", traceparent=f"00-{TRACE}-{CALLER}-01") is None
        assert served.stop() == 0

    assert collector.spans == []


def test_what_can_not_be_done_is_refused(tmp_path: Path) -> None:
    code, said = started_without(tmp_path, "--traces", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")

    assert code == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', and spans leave here by http/protobuf only" in said
