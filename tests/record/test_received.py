"""A record that came as OpenTelemetry data → LogEvent."""

import math
from typing import Any

import pytest

from bridge.record import received
from bridge.record.event import UNSET, ExceptionInfo, LogEvent
from bridge.record.received import EventBuilder, body_text
from bridge.record.redact import Redactor
from bridge.record.values import AnyValue


def build(made_by: EventBuilder | None = None, **given: Any) -> LogEvent:
    fields: dict[str, Any] = {
        "timestamp": 5,
        "observed": 6,
        "number": 9,
        "severity_text": "",
        "logger": "shop",
        "body": "paid",
        "attributes": {},
        "event_name": "",
        "trace_id": "",
        "span_id": "",
        "trace_flags": 0,
        "resource": {},
    }
    return (made_by or EventBuilder(Redactor())).build(**(fields | given))


def with_attributes(**attributes: Any) -> LogEvent:
    return build(attributes={name.replace("__", "."): value for name, value in attributes.items()})


def test_plain() -> None:
    """A record with nothing special has nothing special in its event."""
    resource = {"service.name": "shop"}
    event = build(attributes={"k": 1}, resource=resource, peer="192.0.2.1:5", trace_flags=1)
    assert event == LogEvent(
        timestamp=5,
        observed_timestamp=6,
        severity_number=9,
        level="INFO",
        logger="shop",
        message="paid",
        trace_flags=1,
        attributes={"k": 1},
        resource=resource,
        peer="192.0.2.1:5",
    )
    assert event.resource is resource


@pytest.mark.parametrize(
    ("text", "number", "level"),
    [("", 0, "NOTSET"), ("", 17, "ERROR"), ("warn", 0, "WARNING"), ("notice", 9, "notice"), ("x" * 99, 9, "x" * 99)],
)
def test_levels(text: str, number: int, level: str) -> None:
    """The level is the text, or the number's name; asking twice makes no difference."""
    made_by = EventBuilder(Redactor())
    for _ in range(2):
        assert build(made_by, severity_text=text, number=number).level == level


def test_levels_are_remembered_within_bounds() -> None:
    """Senders with ever new names of levels don't fill the memory."""
    made_by = EventBuilder(Redactor())
    for number in range(1_000):
        assert build(made_by, severity_text=f"level {number}").level == f"level {number}"
    assert len(made_by._levels) <= 1_000 // 2


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("/srv/shop/orders.py", "orders"),
        ("C:\\shop\\orders.py", "orders"),
        ("orders", "orders"),
        ("/srv/a.b.js", "a.b"),
        ("/" + "x" * 2_000 + ".py", "x" * 2_000),
        ("", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_modules(path: Any, module: str) -> None:
    """The module is the file's name without its end, by either attribute."""
    assert with_attributes(code__file__path=path).module == module
    assert with_attributes(code__filepath=path).module == module


def test_modules_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new paths don't fill the memory."""
    monkeypatch.setattr(received, "_MAX_MODULES", 3)
    made_by = EventBuilder(Redactor())
    for number in range(10):
        assert build(made_by, attributes={"code.file.path": f"/a/m{number}.py"}).module == f"m{number}"
        assert len(made_by._modules) <= 3


def test_functions_and_lines() -> None:
    """Function and line by their new names, then the old; of a wrong type they are none."""
    event = with_attributes(code__function__name="pay", code__line__number=7)
    assert (event.function, event.line) == ("pay", 7)
    event = with_attributes(code__function="pay", code__lineno=7)
    assert (event.function, event.line) == ("pay", 7)
    event = with_attributes(code__function__name=1, code__line__number="7")
    assert (event.function, event.line) == ("", 0)


@pytest.mark.parametrize(
    ("attributes", "exception"),
    [
        ({}, None),
        ({"exception__stacktrace": "t"}, None),
        ({"exception__type": "E"}, ExceptionInfo("E", "", "")),
        ({"exception__message": "m", "exception__stacktrace": "t"}, ExceptionInfo("", "m", "t")),
        ({"exception__type": 7, "exception__message": True}, ExceptionInfo("7", "True", "")),
    ],
)
def test_exceptions(attributes: dict[str, Any], exception: ExceptionInfo | None) -> None:
    """An exception needs a type or a message; what is no text becomes one."""
    assert with_attributes(**attributes).exception == exception


def test_event_names() -> None:
    """The record's own name wins, then the attributes'."""
    assert build(event_name="a", attributes={"event.name": "b"}).event_name == "a"
    assert with_attributes(otel__event__name="a", event__name="b").event_name == "a"
    assert with_attributes(event__name="b").event_name == "b"
    assert with_attributes(event__name=7).event_name == "7"


@pytest.mark.parametrize(
    ("attributes", "action", "metadata", "record_id"),
    [
        ({}, UNSET, UNSET, ""),
        ({"action": "login"}, "login", UNSET, ""),
        ({"action": "x", "audit__action": "login", "audit__record__id": "a"}, "login", UNSET, "a"),
        ({"audit__action": None, "log__record__uid": "u"}, None, UNSET, "u"),
        ({"audit__record__id": 7}, UNSET, UNSET, "7"),
        ({"metadata": {"a": 1}, "audit__metadata__b": 2}, UNSET, {"a": 1}, ""),
        ({"audit__metadata__b": 2, "audit__metadata__c.d": 3}, UNSET, {"b": 2, "c.d": 3}, ""),
        ({"audit__metadata": "m"}, UNSET, "m", ""),
    ],
)
def test_audit_records(attributes: dict[str, Any], action: Any, metadata: Any, record_id: str) -> None:
    """An audit record has its action, its metadata and its id; a system record with the same attributes has none."""
    event = with_attributes(is_audit=True, **attributes)
    assert (event.is_audit, event.action, event.metadata, event.record_id) == (True, action, metadata, record_id)
    attributes = {name: value for name, value in attributes.items() if name != "audit__record__id"}
    event = with_attributes(**attributes)
    assert (event.is_audit, event.action, event.metadata, event.record_id) == (False, UNSET, UNSET, "")


def test_what_makes_an_audit_record() -> None:
    """The flag, the logger, the message, or a rule of the user's."""
    assert build(logger="audit.x").is_audit
    assert build(body="[AUDIT] x").is_audit
    ruled = EventBuilder(Redactor(), rules=(lambda logger, message, attributes: message == "paid",))
    assert build(ruled).is_audit
    assert not build(ruled, body="free").is_audit


def test_a_source_that_may_not() -> None:
    """Its audit records are system records with a mark; its others have none."""
    attributes: dict[str, AnyValue] = {"is_audit": True, "action": "login"}
    event = build(attributes=attributes, may_audit=False)
    assert (event.is_audit, event.action, event.record_id) == (False, UNSET, "")
    assert event.attributes == {"is_audit": True, "action": "login", "bridge.audit_refused": True}
    assert build(may_audit=False).attributes == {}


def test_secrets() -> None:
    """Messages, bodies of any kind, attributes and resources are redacted."""
    made_by = EventBuilder(Redactor())
    event = build(made_by, body="password=hunter2", attributes={"api_key": "hunter2", "deep": {"token": "hunter2"}})
    assert "hunter2" not in repr(event)
    assert "hunter2" not in build(made_by, body={"password": "hunter2"}).message
    assert made_by.resource({"db_password": "hunter2"}) == {"db_password": "[REDACTED]"}


def test_long_texts() -> None:
    """Of a large request all texts are cut, names at 1,024 characters; of a small one nobody looks."""
    made_by = EventBuilder(Redactor(), text_chars=10)
    name = "n" * 1_025
    event = build(
        made_by,
        body="b" * 11,
        logger=name,
        severity_text=name,
        event_name=name,
        attributes={"k": "v" * 11, "short": "v", name: "v"},
    )
    end = "… [cut: 11 characters]"
    cut = "n" * 1_024 + "… [cut: 1025 characters]"
    assert event.message == "b" * 10 + end
    assert {event.logger, event.level, event.event_name} == {cut}
    assert event.attributes == {"k": "v" * 10 + end, "short": "v", cut: "v"}
    assert build(made_by, body="b" * 11, large=False).message == "b" * 11
    assert made_by.resource({"k": "v" * 11}) == {"k": "v" * 10 + end}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, ""),
        ("", ""),
        ("a", "a"),
        (7, "7"),
        (True, "true"),
        (1.5, "1.5"),
        (math.nan, "null"),
        (b"\xff", '"/w=="'),
        ((1, "a", None), '[1,"a",null]'),
        ({"a": {"b": (1,)}}, '{"a":{"b":[1]}}'),
        ({1, 2}, "[1,2]"),
        (object, "<class 'object'>"),
    ],
)
def test_bodies(body: Any, text: str) -> None:
    """A body that is no text shows as JSON; what JSON has no form for, as Python writes it."""
    assert body_text(body) == text
