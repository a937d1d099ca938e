"""One request and its answer, over a real socket, in front of an engine in memory."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.objects.errors import Failure
from perdure.runtime.admission import Refused, Request
from perdure.runtime.records import Outcome, Success

# Fixtures' types; see conftest.py, which tests can't import from.
Served = Any
Serve = Any
FakeEngine = Any


def refusing(status: int, message: str, retry_after_seconds: int | None = None) -> Any:
    def submit(request: Request, *, public_only: bool = True) -> object:
        raise Refused(status, message, retry_after_seconds)

    return submit


# --- calls and messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/Counter/a/add", "/restate/call/Counter/a/add"])
async def test_a_call_answers_with_the_result_and_its_id(ingress: Served, path: str) -> None:
    answer = await ingress.post(path, 3)

    assert answer.status == 200
    assert answer.json == 3
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-restate-id"] in ingress.engine.outcomes
    assert answer.headers["date"].endswith("GMT")
    [request] = ingress.engine.requests
    assert (request.service, request.key, request.handler, request.arguments) == ("Counter", "a", "add", b"3")
    assert not request.send


async def test_a_service_has_no_key(ingress: Served) -> None:
    assert (await ingress.post("/Greeter/greet", "x")).json == {"hello": "x"}
    assert ingress.engine.requests[0].key == ""


async def test_a_plain_get_calls_too_as_in_restate(ingress: Served) -> None:
    answer = await ingress.get("/Counter/a/get")

    assert (answer.status, answer.json) == (200, "a")
    assert ingress.engine.requests[0].arguments == b""


@pytest.mark.parametrize("path", ["/Counter/a/add/send", "/restate/send/Counter/a/add"])
async def test_a_message_is_answered_when_it_is_accepted(ingress: Served, path: str) -> None:
    answer = await ingress.post(path, 3)

    assert answer.status == 202
    [id] = ingress.engine.outcomes
    assert answer.json == {"invocationId": id, "status": "Accepted"}
    assert answer.headers["x-restate-id"] == id
    assert ingress.engine.requests[0].send


async def test_a_message_does_not_wait_for_its_outcome(ingress: Served) -> None:
    assert (await ingress.post("/Counter/a/forever/send")).status == 202


async def test_a_handler_named_send_can_be_called(ingress: Served) -> None:
    assert (await ingress.get("/Counter/a/send")).json == "the handler named send"
    assert (await ingress.post("/Counter/a/send/send")).status == 202


@pytest.mark.parametrize(
    ("delay", "microseconds"), [("10s", 10_000_000), ("PT1.5S", 1_500_000), ("60+sec", 60_000_000)]
)
async def test_a_delay_reaches_the_engine_in_microseconds(ingress: Served, delay: str, microseconds: int) -> None:
    assert (await ingress.post(f"/Counter/a/add/send?delay={delay}", 1)).status == 202
    assert (await ingress.post(f"/restate/send/Counter/a/add?DELAY={delay}", 1)).status == 202

    assert [request.delay_us for request in ingress.engine.requests] == [microseconds] * 2


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/Counter/a/add/send?delay=soon", "bad delay: 'soon'"),
        ("/Counter/a/add/send?delay=", "bad delay"),
        ("/Counter/a/add/send?delay=P1M", "months"),
        ("/Counter/a/add?delay=10s", "…/send?delay"),
        ("/Counter/a/add/send?delay=%ff", "bad query"),
        ("/Counter/a/add/send?" + "a&" * 100 + "delay=1s", "bad query"),
        ("/Counter/a/add/send?dely=1h", "unknown query parameter 'dely'; a message knows `delay`"),
        ("/restate/send/Counter/a/add?delay=1s&x", "unknown query parameter 'x'"),
        ("/Counter/a/add/send?delay=1s&DELAY=2s", "`delay` is given more than once"),
        ("/Counter/a/add/send?delay=1s&delay=1s", "`delay` is given more than once"),
        ("/Counter/a/add/send?%0a" + "x" * 100 + "=1", "unknown query parameter '\\nxxx"),
    ],
)
async def test_a_bad_delay_is_400(ingress: Served, path: str, text: str) -> None:
    answer = await ingress.post(path, 1)

    assert answer.status == 400
    assert text in answer.message
    assert not ingress.engine.requests


async def test_a_call_takes_any_query_but_a_delay(ingress: Served) -> None:
    """It is answered at once either way: nothing is lost with what is not understood."""
    assert (await ingress.post("/Counter/a/add?utm_source=x&x", 1)).status == 200


# --- idempotency keys -------------------------------------------------------------------------------------------------


async def test_the_same_idempotency_key_is_the_same_invocation(ingress: Served) -> None:
    first = await ingress.post("/Counter/a/add", 3, idempotency_key="k")
    again = await ingress.post("/Counter/a/add", 3, idempotency_key="k")
    sent = await ingress.post("/Counter/a/add/send", 3, idempotency_key="k")

    assert first.headers["x-restate-id"] == again.headers["x-restate-id"]
    assert len(ingress.engine.requests) == 1
    assert sent.json == {"invocationId": first.headers["x-restate-id"], "status": "PreviouslyAccepted"}


async def test_the_same_idempotency_key_with_other_arguments_is_409(ingress: Served) -> None:
    await ingress.post("/Counter/a/add", 3, idempotency_key="k")

    assert (await ingress.post("/Counter/a/add", 4, idempotency_key="k")).status == 409


@pytest.mark.parametrize("key", ["", "  ", "x" * 513, "ü" * 257])
async def test_an_empty_or_overlong_idempotency_key_is_400(ingress: Served, key: str) -> None:
    assert "idempotency-key" in (await ingress.post("/Counter/a/add", 3, idempotency_key=key)).message
    assert not ingress.engine.requests


async def test_512_bytes_of_idempotency_key_are_taken(ingress: Served) -> None:
    assert (await ingress.post("/Counter/a/add", 3, idempotency_key="ü" * 256)).status == 200
    assert ingress.engine.requests[0].idempotency_key == "ü" * 256


async def test_two_idempotency_keys_are_400(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"GET /Counter/a/get HTTP/1.1\r\nhost: x\r\nidempotency-key: a\r\nIdempotency-Key: b\r\n\r\n")

    assert (await wire.answer()).status == 400


async def test_an_idempotency_key_that_is_not_utf8_is_400(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"GET /Counter/a/get HTTP/1.1\r\nhost: x\r\nidempotency-key: \xff\xfe\r\n\r\n")

    assert (await wire.answer()).status == 400


# --- attach, output, lookup, health --------------------------------------------------------------------------------


def idempotent(**more: str) -> dict[str, str]:
    return {"target": "idempotentInvocation", "service": "Counter", "key": "a", **more}


@pytest.mark.parametrize("verb", ["attach", "output"])
async def test_a_result_can_be_had_in_every_way(ingress: Served, verb: str) -> None:
    id = (await ingress.post("/Counter/a/add", 3, idempotency_key="k/1")).headers["x-restate-id"]
    answers = [
        await ingress.get(f"/restate/{verb}/{id}"),
        await ingress.get(f"/restate/invocation/{id}/{verb}"),
        await ingress.get(f"/restate/invocation/Counter/a/add/k%2F1/{verb}"),
        await ingress.post(f"/restate/{verb}", {"target": "invocation", "invocationId": id}),
        await ingress.post(f"/restate/{verb}", idempotent(handler="add", idempotencyKey="k/1")),
    ]

    for answer in answers:
        assert (answer.status, answer.json, answer.headers["x-restate-id"]) == (200, 3, id)


async def test_lookup_says_the_id(ingress: Served) -> None:
    id = (await ingress.post("/Counter/a/add", 3, idempotency_key="k")).headers["x-restate-id"]

    answer = await ingress.post("/restate/lookup", idempotent(handler="add", idempotencyKey="k"))

    assert (answer.status, answer.json) == (200, {"invocationId": id})


async def test_a_workflow_is_found_by_its_key(ingress: Served) -> None:
    ingress.engine.known["signup", "a/b", "run", None] = ("inv_w", b"")
    ingress.engine.outcomes["inv_w"] = done = asyncio.get_running_loop().create_future()
    done.set_result(Success(b"true"))
    body = {"target": "workflow", "workflowName": "signup", "workflowKey": "a/b"}

    assert (await ingress.get("/restate/workflow/signup/a%2Fb/attach")).json is True
    assert (await ingress.get("/restate/workflow/signup/a%2Fb/output")).json is True
    assert (await ingress.post("/restate/attach", body)).json is True
    assert (await ingress.post("/restate/lookup", body)).json == {"invocationId": "inv_w"}


async def test_an_output_that_is_not_there_yet_is_470(ingress: Served) -> None:
    id = (await ingress.post("/Counter/a/forever/send")).headers["x-restate-id"]

    answer = await ingress.get(f"/restate/output/{id}")

    assert answer.status == 470
    assert answer.error["code"] == 470
    assert "not completed yet" in answer.message


async def test_attach_waits(ingress: Served) -> None:
    open_: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Counter", "forever", open_)
    id = (await ingress.post("/Counter/a/forever/send")).headers["x-restate-id"]
    attached = asyncio.create_task(ingress.get(f"/restate/attach/{id}"))
    assert (await ingress.get(f"/restate/output/{id}")).status == 470
    assert not attached.done()

    open_.set_result(Success(b"7"))

    assert (await attached).json == 7


@pytest.mark.parametrize("path", ["/restate/attach/inv_0", "/restate/output/inv_0", "/restate/invocation/inv_0/attach"])
async def test_an_unknown_invocation_is_404(ingress: Served, path: str) -> None:
    answer = await ingress.get(path)

    assert (answer.status, answer.error["source"]) == (404, "ingress")


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"{", b"[]", b'{"target": "moon"}', b'{"invocationId": "x"}', b'{"target": "invocation"}', b"\xff"],
        *[b"[" * 100_000, b'{"target": "workflow", "workflowName": 3, "workflowKey": "a"}'],
        b'{"target": "workflow", "workflowName": "a", "workflowKey": "a", "scope": "s"}',
    ],
)
@pytest.mark.parametrize("path", ["/restate/attach", "/restate/output", "/restate/lookup"])
async def test_a_bad_target_is_400(ingress: Served, path: str, body: bytes) -> None:
    assert (await ingress.request("POST", path, body)).status == 400


async def test_health_names_the_services(ingress: Served) -> None:
    answer = await ingress.get("/restate/health")

    assert (answer.status, answer.json) == (200, {"services": ["Counter", "Greeter"]})


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_a_terminal_errors_class_status_and_metadata_are_told(ingress: Served) -> None:
    failure = Failure("InsufficientFunds", "a has 3", 409, {"balance": "3"})
    ingress.engine.gives("Greeter", "fail", failure)

    answer = await ingress.get("/Greeter/fail")

    assert answer.status == 409
    assert answer.error == {
        "code": 409,
        "message": "a has 3",
        "source": "invocation",
        "type": "InsufficientFunds",
        "metadata": {"balance": "3"},
    }
    assert answer.headers["x-restate-id"]


@pytest.mark.parametrize(("status", "http"), [(400, 400), (418, 418), (499, 499), (599, 599), (200, 500), (99, 500)])
async def test_a_failure_never_looks_like_a_result(ingress: Served, status: int, http: int) -> None:
    ingress.engine.gives("Greeter", "fail", Failure("T", "m", status))

    answer = await ingress.get("/Greeter/fail")

    assert (answer.status, answer.error["code"]) == (http, status)


async def test_a_message_with_lone_surrogates_is_told_as_far_as_it_can_be(ingress: Served) -> None:
    failure = Failure("T", "bad \ud800 text", 400, {"x": "\udfff"})
    ingress.engine.gives("Greeter", "fail", failure)

    answer = await ingress.get("/Greeter/fail")

    assert (answer.status, answer.message) == (400, "bad ? text")


@pytest.mark.parametrize(
    ("status", "retry_after"), [(400, None), (404, None), (409, None), (429, 2), (503, 1), (507, 30), (413, None)]
)
async def test_a_refusal_keeps_its_status(ingress: Served, status: int, retry_after: int | None) -> None:
    ingress.engine.submit = refusing(status, "the reason", retry_after)

    answer = await ingress.post("/Counter/a/add", 1)

    assert answer.status == status
    assert answer.error == {"code": status, "message": "the reason", "source": "ingress"}
    assert answer.headers.get("retry-after") == (None if retry_after is None else str(retry_after))


@pytest.mark.parametrize("path", ["/Counter/a/add", "/Counter/a/add/send"])
async def test_when_the_journal_failed_the_outcome_is_unknown(ingress: Served, path: str) -> None:
    ingress.engine.journal_failed = True

    answer = await ingress.post(path, 1)

    assert answer.status == 503
    assert "outcome unknown" in answer.message


async def test_a_bug_is_a_500_without_a_traceback_and_the_connection_stays(ingress: Served) -> None:
    def submit(request: Request, *, public_only: bool = True) -> object:
        raise KeyError("secret")

    ingress.engine.submit = submit
    wire = await ingress.connect()

    answer = await wire.request("POST", "/Counter/a/add", b"1")

    assert answer.status == 500
    assert "secret" not in answer.message
    assert (await wire.request("GET", "/restate/health")).status == 200


@pytest.mark.parametrize("path", ["/Nope/a/add", "/Counter/a/nope", "/restate/nope"])
async def test_what_does_not_exist_is_404(ingress: Served, path: str) -> None:
    assert (await ingress.get(path)).status == 404


@pytest.mark.parametrize("path", ["/Counter/a", "/Counter/a/hidden", "/", "/Counter/%/get", "/Counter/%ff/get"])
async def test_what_is_malformed_or_private_is_400(ingress: Served, path: str) -> None:
    assert (await ingress.get(path)).status == 400


@pytest.mark.parametrize("path", ["/Counter/%00/get", "/Counter/a%0d%0ab/get", "/Counter/" + "x" * 513 + "/get"])
async def test_a_key_with_control_characters_or_too_long_is_400(ingress: Served, path: str) -> None:
    assert (await ingress.get(path)).status == 400


@pytest.mark.parametrize("body", [b"{", b"nul", b"\xff", b"[" * 100_000, b'"\x00"', b"1 2"])
async def test_a_body_that_is_not_json_is_400(ingress: Served, body: bytes) -> None:
    assert (await ingress.request("POST", "/Counter/a/add", body)).status == 400
    assert not ingress.engine.requests


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *[(method, "/Counter/a/get", "GET, POST") for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")],
        ("GET", "/Counter/a/add", "POST"),
        ("GET", "/Counter/a/get/send", "POST"),
        ("POST", "/restate/health", "GET"),
        ("GET", "/restate/lookup", "POST"),
        ("GET", "/restate/attach", "POST"),
        ("POST", "/restate/attach/inv_1", "GET"),
        ("HEAD", "/restate/output/inv_1", "GET"),
    ],
)
async def test_other_methods_are_405_and_say_which_are_allowed(
    ingress: Served, method: str, path: str, allow: str
) -> None:
    wire = await ingress.connect()

    answer = await wire.request(method, path)

    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert (await wire.request("GET", "/restate/health")).status == 200, "a HEAD's answer has no body"
    assert not ingress.engine.requests


# --- headers ------------------------------------------------------------------------------------------------------


async def test_a_handler_gets_the_headers_but_no_credentials(ingress: Served) -> None:
    await ingress.post(
        "/Counter/a/add",
        1,
        traceparent="00-abc",
        X_Tenant="tëst",
        authorization="Bearer secret",
        cookie="secret",
        accept="*/*",
        user_agent="curl",
        idempotency_key="k",
    )

    assert ingress.engine.requests[0].headers == {"traceparent": "00-abc", "x-tenant": "tëst"}


async def test_a_header_given_twice_is_one_list(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"GET /Counter/a/get HTTP/1.1\r\nhost: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    await wire.answer()

    assert ingress.engine.requests[0].headers == {"x-a": "1, 2"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null", "content_type": "text/plain"}, 403),
        ({"origin": "https://evil.example", "content_type": "application/json"}, 403),
        ({"origin": "http://localhost"}, 200),  # as the Host
        ({"origin": "http://localhost:3000"}, 403),  # on this machine, but somebody else's
        ({"origin": "https://X"}, 200),  # named, in the fixture
        ({"origin": "https://x", "sec_fetch_site": "same-site"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),  # typed into the address bar
        ({"content_type": "text/plain"}, 200),  # curl -d
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_web_page_can_not_send_without_being_asked_for_leave(
    ingress: Served, method: str, headers: dict[str, str], status: int
) -> None:
    """Whatever a page of another origin can make a browser send is refused, as is the question whether it may."""
    answer = await ingress.request(method, "/Counter/a/get" if method == "GET" else "/Counter/a/add", b"1", **headers)

    assert answer.status == status
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert len(ingress.engine.requests) == (status == 200)


async def test_a_web_page_can_not_ask_for_results_either(ingress: Served) -> None:
    answer = await ingress.post("/restate/lookup", idempotent(handler="add", idempotencyKey="k"), origin="https://e.x")

    assert answer.status == 403


@pytest.mark.parametrize("encoding", ["br", "zstd"])
async def test_a_body_in_an_encoding_we_cannot_read_is_415(ingress: Served, encoding: str) -> None:
    """What the client can do about it, not what to install here."""
    wire = await ingress.connect()
    await wire.send(
        b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-encoding: %b\r\n\r\n1"
        % encoding.encode()
    )

    answer = await wire.answer()

    assert answer.status == 415
    assert answer.message == "the body's content-encoding can't be read: use gzip or deflate, or none"
    assert not ingress.engine.requests


async def test_a_body_that_is_not_in_its_encoding_is_400(ingress: Served) -> None:
    """Another encoding would not help: the bytes are wrong."""
    wire = await ingress.connect()
    await wire.send(
        b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-encoding: gzip\r\n\r\nnope"
    )

    assert (await wire.answer()).status == 400
    assert not ingress.engine.requests


async def test_a_browsers_preflight_gets_no_leave(ingress: Served) -> None:
    answer = await ingress.request(
        "OPTIONS", "/Counter/a/add", None, origin="https://evil.example", access_control_request_method="POST"
    )

    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


# --- bodies -------------------------------------------------------------------------------------------------------


async def test_a_body_in_pieces_is_read_whole(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n12")
    await asyncio.sleep(0)
    await wire.send(b"34")
    await asyncio.sleep(0)
    await wire.send(b"56")

    assert (await wire.answer()).json == 123456


async def test_a_chunked_body_is_read_whole(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\n123\r\n")
    await asyncio.sleep(0)
    await wire.send(b"3;ext=1\r\n456\r\n0\r\ntrailer: x\r\n\r\n")

    assert (await wire.answer()).json == 123456
    assert (await wire.request("GET", "/restate/health")).status == 200


async def test_a_large_body_arrives(ingress: Served) -> None:
    text = "x" * 5_000_000

    assert (await ingress.post("/Greeter/greet", text)).json == {"hello": text}


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_413(serve: Serve, announced: bool) -> None:
    ingress = await serve(body_bytes_max=1000)
    wire = await ingress.connect()
    if announced:
        await wire.send(b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n")
    else:
        await wire.send(b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await wire.send(b"1f4\r\n" + b"1" * 500 + b"\r\n")
        await wire.send(b"1f5\r\n" + b"1" * 501 + b"\r\n")

    answer = await wire.answer()

    assert answer.status == 413
    assert "1000 bytes" in answer.message
    assert answer.headers["connection"] == "close"
    assert not ingress.engine.requests


async def test_a_whole_body_in_one_piece_may_not_be_too_large_either(serve: Serve) -> None:
    ingress = await serve(body_bytes_max=1000)

    assert (await ingress.request("POST", "/Counter/a/add", b"1" * 1000)).status == 200
    assert (await ingress.request("POST", "/Counter/a/add", b"1" * 1001)).status == 413


async def test_a_compressed_body_is_taken_and_a_bomb_is_not(serve: Serve) -> None:
    ingress = await serve(body_bytes_max=100_000)
    small, bomb = gzip.compress(b"12345"), gzip.compress(b"1" * 50_000_000)
    assert len(bomb) < 100_000

    answer = await ingress.request("POST", "/Counter/a/add", small, content_encoding="gzip")
    assert (answer.status, answer.json) == (200, 12345)
    assert (await ingress.request("POST", "/Counter/a/add", bomb, content_encoding="gzip")).status == 413
    assert (await ingress.request("POST", "/Counter/a/add", b"not gzip", content_encoding="gzip")).status == 400


async def test_expect_100_continue_is_answered_before_the_body(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")

    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send(b"5")
    assert (await wire.answer()).json == 5


async def test_expect_100_continue_is_refused_when_the_path_is_wrong(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"POST /Nope/x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")

    assert (await wire.answer()).status == 404


# --- connections ----------------------------------------------------------------------------------------------------


async def test_a_connection_serves_many_requests(ingress: Served) -> None:
    wire = await ingress.connect()

    assert [(await wire.request("POST", "/Counter/a/add", b"%d" % n)).json for n in range(20)] == list(range(20))


async def test_pipelined_requests_are_answered_in_order(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(
        b"".join(
            b"POST /Counter/a/add HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n%03d" % (n + 100) for n in range(200)
        )
    )

    assert [(await wire.answer()).json for _ in range(200)] == [n + 100 for n in range(200)]


async def test_pipelined_behind_a_refusal_with_an_unread_body(ingress: Served) -> None:
    """The rest of a refused request is never taken for a request."""
    wire = await ingress.connect()
    inner = b"GET /Counter/smuggled/get HTTP/1.1\r\nhost: x\r\n\r\n"
    await wire.send(b"POST /Nope/x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(inner) + inner)
    assert (await wire.answer()).status == 404

    assert (await wire.request("GET", "/Counter/next/get")).json == "next"
    assert [request.key for request in ingress.engine.requests] == ["next"]


@pytest.mark.parametrize(
    ("head", "connection", "stays"),
    [
        (b"HTTP/1.1\r\nhost: x", None, True),
        (b"HTTP/1.1\r\nhost: x\r\nconnection: close", "close", False),
        (b"HTTP/1.0", "close", False),
        (b"HTTP/1.0\r\nconnection: keep-alive", "keep-alive", True),
    ],
)
async def test_connections_persist_as_http_says(
    ingress: Served, head: bytes, connection: str | None, stays: bool
) -> None:
    wire = await ingress.connect()
    await wire.send(b"GET /restate/health " + head + b"\r\n\r\n")

    assert (await wire.answer()).headers.get("connection") == connection
    if stays:
        assert (await wire.request("GET", "/restate/health")).status == 200
    else:
        assert await wire.closed()


async def test_the_absolute_form_is_understood(ingress: Served) -> None:
    wire = await ingress.connect()

    assert (await wire.request("GET", "http://localhost:8080/Counter/a%2Fb/get")).json == "a/b"


async def test_a_client_that_leaves_cancels_nothing(ingress: Served) -> None:
    open_: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Counter", "forever", open_)
    wire = await ingress.connect()
    await wire.send(b"POST /Counter/a/forever HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\n\r\n")
    other = asyncio.create_task(ingress.request("POST", "/Counter/a/forever", None, idempotency_key="k"))
    while ingress.ingress.requests_in_flight < 2:
        await asyncio.sleep(0.001)

    wire.abort()
    while ingress.ingress.requests_in_flight > 1:
        await asyncio.sleep(0.001)

    assert not open_.cancelled()
    open_.set_result(Success(b'"done"'))
    assert (await other).json == "done"


async def test_clients_that_left_leave_nothing_behind(ingress: Served) -> None:
    for _ in range(20):
        wire = await ingress.connect()
        await wire.send(b"POST /Counter/a/forever HTTP/1.1\r\nhost: x\r\n\r\nPOST /Counter/b/add HTT")
        await asyncio.sleep(0)
        wire.abort()
    async with asyncio.timeout(5):
        while ingress.ingress.connections_open or ingress.ingress.requests_in_flight:
            await asyncio.sleep(0.001)


async def test_closing_lets_requests_in_flight_end(ingress: Served) -> None:
    open_: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    ingress.engine.gives("Counter", "forever", open_)
    idle, busy = await ingress.connect(), await ingress.connect()
    await idle.request("GET", "/restate/health")
    await busy.send(b"POST /Counter/a/forever HTTP/1.1\r\nhost: x\r\n\r\n")
    while not ingress.ingress.requests_in_flight:
        await asyncio.sleep(0.001)

    closing = asyncio.create_task(ingress.ingress.close(10))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await ingress.connect()
    open_.set_result(Success(b"1"))

    assert (await busy.answer()).json == 1
    await closing
    assert await idle.closed()
    assert await busy.closed()


async def test_who_still_waits_when_the_grace_is_over_gets_a_503(ingress: Served) -> None:
    wire = await ingress.connect()
    await wire.send(b"POST /Counter/a/forever HTTP/1.1\r\nhost: x\r\n\r\n")
    while not ingress.ingress.requests_in_flight:
        await asyncio.sleep(0.001)

    await ingress.ingress.close(0)

    answer = await wire.answer()
    assert answer.status == 503
    assert "shutting down" in answer.message
    assert await wire.closed()
    assert ingress.ingress.connections_open == 0


# --- properties ---------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40).filter(
    lambda key: len(key.encode()) <= 512
)


async def test_a_key_comes_out_as_it_went_in(ingress: Served) -> None:
    """Over the wire, with every byte percent-encoded; NFC and NFD spellings stay apart."""
    wire = await ingress.connect()
    examples: list[str] = ["a/b", "..", ".", "%2F", "a+b c", "é", "e\u0301", "\u202e", "a?b#c", "\\..\\", "x" * 512]
    drawn: list[str] = []

    @settings(max_examples=80, deadline=None, database=None, derandomize=True)
    @given(KEYS)
    @example("🧮")
    def draw(key: str) -> None:
        drawn.append(key)

    draw()
    for key in examples + drawn:
        answer = await wire.request("GET", f"/Counter/{''.join(f'%{byte:02x}' for byte in key.encode())}/get")
        assert answer.json == key, key


async def test_a_path_that_is_not_ascii_is_400_and_says_what_to_do(ingress: Served) -> None:
    assert "percent-encode" in (await ingress.get("/Counter/ü/get")).message
