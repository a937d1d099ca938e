"""From a raw path to what it asks for."""

from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.runtime.admission import Refused
from perdure.runtime.http_paths import (
    Await,
    Health,
    IdempotentInvocation,
    Invocation,
    Invoke,
    Lookup,
    Route,
    Workflow,
    parse_path,
)


@dataclass
class Handler:
    public: bool = True
    takes_nothing: bool = True


@dataclass
class Service:
    keyed: bool
    handlers: dict[str, Handler] = field(default_factory=lambda: {"get": Handler(), "send": Handler()})


SERVICES = {
    "Counter": Service(True, {"get": Handler(), "send": Handler(), "hidden": Handler(public=False)}),
    "Mail": Service(False),
    "Zähler": Service(True, {"lies✓": Handler()}),
}


def refused(path: str) -> Refused:
    with pytest.raises(Refused) as caught:
        parse_path(path, SERVICES)
    return caught.value


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/Counter/a/get", Invoke("Counter", "a", "get", False)),
        ("/Counter/a/get/send", Invoke("Counter", "a", "get", True)),
        ("/Counter/a/send", Invoke("Counter", "a", "send", False)),
        ("/Counter/a/send/send", Invoke("Counter", "a", "send", True)),
        ("/Mail/get", Invoke("Mail", "", "get", False)),
        ("/Mail/get/send", Invoke("Mail", "", "get", True)),
        ("/Mail/send", Invoke("Mail", "", "send", False)),
        ("/restate/call/Counter/a/get", Invoke("Counter", "a", "get", False)),
        ("/restate/send/Counter/a/get", Invoke("Counter", "a", "get", True)),
        ("/restate/call/Mail/get", Invoke("Mail", "", "get", False)),
        ("/restate/send/Mail/get", Invoke("Mail", "", "get", True)),
        ("/Counter/a%2Fb/get", Invoke("Counter", "a/b", "get", False)),
        ("/Counter/%2e%2e/get", Invoke("Counter", "..", "get", False)),
        ("/Counter/../get", Invoke("Counter", "..", "get", False)),
        ("/Counter/a+b%20c/get", Invoke("Counter", "a+b c", "get", False)),
        ("/Counter/%252F/get", Invoke("Counter", "%2F", "get", False)),
        ("/Counter/ü/get", Invoke("Counter", "ü", "get", False)),
        ("/Z%C3%A4hler/a/lies%E2%9C%93", Invoke("Zähler", "a", "lies✓", False)),
        ("/restate/call/Z%C3%A4hler/a/lies%E2%9C%93", Invoke("Zähler", "a", "lies✓", False)),
        ("/restate/attach/inv_1", Await(Invocation("inv_1"), peek=False)),
        ("/restate/output/inv_1", Await(Invocation("inv_1"), peek=True)),
        ("/restate/attach", Await(None, peek=False)),
        ("/restate/output", Await(None, peek=True)),
        ("/restate/invocation/inv_1/attach", Await(Invocation("inv_1"), peek=False)),
        ("/restate/invocation/inv_1/output", Await(Invocation("inv_1"), peek=True)),
        (
            "/restate/invocation/Counter/a%2Fb/get/k%20k/output",
            Await(IdempotentInvocation("Counter", "get", "k k", "a/b"), peek=True),
        ),
        ("/restate/invocation/Mail/get/k/attach", Await(IdempotentInvocation("Mail", "get", "k"), peek=False)),
        ("/restate/workflow/signup/a%2Fb/attach", Await(Workflow("signup", "a/b"), peek=False)),
        ("/restate/workflow/signup/a/output", Await(Workflow("signup", "a"), peek=True)),
        ("/restate/lookup", Lookup()),
        ("/restate/health", Health()),
    ],
)
def test_each_form_says_what_is_asked_for(path: str, route: Route) -> None:
    assert parse_path(path, SERVICES) == route


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/Counter/get", "/Counter/{key}/{handler}[/send]"),
        ("/Counter", "/Counter/{key}/{handler}[/send]"),
        ("/Counter/a/get/sned", "/Counter/{key}/{handler}[/send]"),
        ("/Counter/a/b/get", "/Counter/{key}/{handler}[/send]"),
        ("/Counter/a/get/", "/Counter/{key}/{handler}[/send]"),
        ("/Counter/a/get/send/send", "/Counter/{key}/{handler}[/send]"),
        ("//Counter/a/get", None),
        ("/Mail", "/Mail/{handler}[/send]"),
        ("/Mail/a/get", "/Mail/{handler}[/send]"),
        ("/", "/{object}/{key}/{handler}"),
        ("/nothing", "/{object}/{key}/{handler}"),
        ("/restate", "/restate/call"),
        ("/restate/", "/restate/call"),
        ("/restate/call", "/restate/call"),
        ("/restate/call/Counter/a/get/send", "/restate/call/Counter/{key}/{handler}"),
        ("/restate/send/Counter/get", "/restate/send/Counter/{key}/{handler}"),
        ("/restate/send/Mail/a/get", "/restate/send/Mail/{handler}"),
        ("/restate/attach/a/b", "/restate/attach/{id}"),
        ("/restate/lookup/x", "/restate/lookup"),
        ("/restate/health/x", "/restate/health"),
        ("/restate/invocation/inv_1", "/restate/invocation/{id}/attach"),
        ("/restate/invocation/inv_1/kill", "/restate/invocation/{id}/attach"),
        ("/restate/invocation/Counter/a/attach", "/restate/invocation/{id}/attach"),
        ("/restate/invocation/Counter/a/get/attach", "/restate/invocation/{id}/attach"),
        ("/restate/workflow/signup/attach", "/restate/workflow/{name}/{key}/attach"),
        ("/restate/workflow/signup/a/b/attach", "/restate/workflow/{name}/{key}/attach"),
        ("/restate/scope/s/call/Mail/get", "scopes are not supported"),
    ],
)
def test_missing_or_extra_parts_are_400_and_show_the_right_form(path: str, form: str | None) -> None:
    error = refused(path)

    if form is not None:
        assert error.status == 400
        assert form in error.message
    else:
        assert error.status == 404


def test_an_unknown_service_is_404_and_names_what_there_is() -> None:
    error = refused("/Contuer/a/get")

    assert error.status == 404
    assert "'Contuer'" in error.message
    assert "Counter, Mail, Zähler" in error.message
    assert refused("/restate/call/Contuer/a/get").status == 404
    assert refused("/restate/invocation/Contuer/a/get/k/attach").status == 404


def test_an_unknown_handler_is_404_and_names_the_public_ones() -> None:
    error = refused("/Counter/a/gett")

    assert error.status == 404
    assert "'gett'" in error.message
    assert "'Counter'" in error.message
    assert "get, send" in error.message
    assert "hidden" not in error.message


def test_a_handler_that_is_not_public_is_400_as_in_restate() -> None:
    error = refused("/Counter/a/hidden")

    assert error.status == 400
    assert "not public" in error.message


def test_what_is_echoed_and_listed_is_bounded() -> None:
    many = {f"Service{n:04}": Service(True) for n in range(1000)}

    with pytest.raises(Refused) as caught:
        parse_path("/" + "x" * 8000 + "/a/b", many)

    assert len(caught.value.message) < 700
    assert "and 980 more" in caught.value.message


@pytest.mark.parametrize(
    "part", ["%", "%2", "%zz", "a%", "%u0041", "%ff", "%C3", "%ED%A0%80", "\udcff", "%C0%AF", "%%32F"]
)
def test_bad_encoding_is_400(part: str) -> None:
    assert refused(f"/Counter/{part}/get").status == 400


@given(st.text(min_size=1, max_size=60))
@example("NFC \u00e9 / NFD e\u0301")
@example("..")
@example("a/b?c#d%2F+ ;=&")
def test_a_key_comes_out_as_it_went_in(key: str) -> None:
    for encoded in {quote(key, safe=""), "".join(f"%{byte:02X}" for byte in key.encode())}:
        route = parse_path(f"/Counter/{encoded}/get", SERVICES)
        assert isinstance(route, Invoke)
        assert route.key == key


@given(
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace").decode("utf-8", "replace"))
    | st.text(max_size=60)
)
def test_no_path_does_anything_but_parse_or_refuse(path: str) -> None:
    try:
        parse_path(path, SERVICES)
    except Refused as error:
        refusal = error
    else:
        return
    assert refusal.status in (400, 404)
    refusal.message.encode()
