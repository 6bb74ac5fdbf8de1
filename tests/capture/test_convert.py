from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry._logs import SeverityNumber

from bridge.capture.audit import AUDIT_EVENT, AuditEvent
from bridge.capture.context import audit_context
from bridge.capture.convert import Converted, Converter, _uniform, attribute_limit
from bridge.capture.handler import Captured, CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from bridge.record.event import UNSET
from bridge.record.redact import NO_REDACTION, Redactor

SECOND = 1_000_000_000
CREATED = 1_759_948_245.123


def capture(msg: Any = "m", *args: Any, **fields: Any) -> Captured:
    """A record as the handler hands it over, in the context of the test."""
    queue: CallQueue[Captured] = CallQueue(10, 1 << 20)
    handler = CaptureHandler(queue, Drops())
    record = logging.LogRecord(
        fields.pop("name", "shop.server"),
        fields.pop("levelno", logging.INFO),
        "/app/server.py",
        142,
        msg,
        args,
        fields.pop("exc_info", None),
        "spawn",
    )
    record.__dict__.update({"created": CREATED} | fields)
    handler.handle(record)
    (captured,) = queue.take(1)
    return captured


def converter(**arguments: Any) -> Converter:
    resource = arguments.pop("resource", {"service.name": "shop"})
    return Converter(arguments.pop("redactor", NO_REDACTION), resource=resource, **({"text_chars": 1_000} | arguments))


def convert(captured: Captured, **arguments: Any) -> Converted:
    converted = converter(**arguments).convert(captured, 2_000 * SECOND)
    assert converted is not None
    return converted


def otel_attributes(converted: Converted) -> dict[str, Any]:
    return dict(converted.otel.attributes or {})


def test_both_forms_have_the_records_fields() -> None:
    """Time, level, logger, message, source and process are the record's, in both forms."""
    converted = convert(capture("x %d", 3))
    event, otel = converted.event, converted.otel
    assert (event.timestamp, otel.timestamp) == (1_759_948_245_123_000_000,) * 2
    assert (event.observed_timestamp, otel.observed_timestamp) == (2_000 * SECOND,) * 2
    assert (event.severity_number, otel.severity_number) == (9, SeverityNumber.INFO)
    assert (event.level, otel.severity_text) == ("INFO", "INFO")
    assert (event.message, otel.body) == ("x 3", "x 3")
    assert (event.logger, event.module, event.function, event.line) == ("shop.server", "server", "spawn", 142)
    assert event.resource == {"service.name": "shop"}
    assert event.is_audit is False
    assert (event.action, event.metadata, event.record_id) == (UNSET, UNSET, "")
    assert otel_attributes(converted) == event.attributes
    assert event.attributes["code.file.path"] == "/app/server.py"
    assert event.attributes["code.function.name"] == "spawn"
    assert event.attributes["code.line.number"] == 142
    assert event.attributes["thread.id"] == threading.get_ident()
    assert event.attributes["thread.name"] == "MainThread"
    assert "process.name" not in event.attributes


@pytest.mark.parametrize("millisecond", [0, 1, 123, 499, 998, 999])
def test_a_time_in_milliseconds_stays_exact(millisecond: int) -> None:
    """A float's error does not move a record into the millisecond before."""
    seconds = 1_759_948_245
    event = convert(capture(created=float(f"{seconds}.{millisecond:03d}"))).event
    assert event.timestamp == seconds * SECOND + millisecond * 1_000_000


@pytest.mark.parametrize(
    ("level", "name", "expected"),
    [(30, "WARNING", "WARN"), (50, "CRITICAL", "FATAL"), (25, "NOTICE", "NOTICE"), (40, "ERROR", "ERROR")],
)
def test_level_names(level: int, name: str, expected: str) -> None:
    """The live view shows Python's name, OpenTelemetry gets its own."""
    converted = convert(capture(levelno=level, levelname=name))
    assert (converted.event.level, converted.otel.severity_text) == (name, expected)


def test_process_and_task_names_are_kept_where_they_say_something() -> None:
    """multiprocessing's name of a child, asyncio's name of a task, the stack that was asked for."""
    event = convert(capture(processName="Worker-1", taskName="refresh", stack_info="Stack:\n  x")).event
    assert event.attributes["process.name"] == "Worker-1"
    assert event.attributes["asyncio.task.name"] == "refresh"
    assert event.attributes["code.stacktrace"] == "Stack:\n  x"


def test_a_record_made_by_hand_may_lack_everything() -> None:
    """None where logging has numbers and names becomes empty."""
    missing = dict.fromkeys(("thread", "threadName", "process", "processName", "module", "funcName", "lineno"))
    event = convert(capture(**missing)).event
    assert (event.module, event.function, event.line) == ("", "", 0)
    assert event.attributes["thread.id"] == 0
    assert event.attributes["thread.name"] == ""


@pytest.mark.parametrize("line", [-1, 1 << 70, "7", 1.5, True])
def test_a_line_that_is_no_line_is_0(line: Any) -> None:
    """What could not be encoded does not reach the wire."""
    assert convert(capture(lineno=line)).event.line == 0


def test_an_exception_has_three_attributes() -> None:
    """Type, message and traceback are attributes, and a value of the event."""
    converted = convert(capture(exc_info=(ValueError, ValueError("x"), None)))
    assert converted.event.exception is not None
    assert converted.event.exception.type == "ValueError"
    assert otel_attributes(converted)["exception.type"] == "ValueError"
    assert otel_attributes(converted)["exception.message"] == "x"
    assert otel_attributes(converted)["exception.stacktrace"] == "ValueError: x\n"


def test_a_traceback_that_came_as_text_is_kept() -> None:
    """A SocketHandler sends the formatted traceback only."""
    converted = convert(capture(exc_text="Traceback ..."))
    assert otel_attributes(converted)["exception.stacktrace"] == "Traceback ..."


def test_extras_are_attributes() -> None:
    """Nested values stay nested; a key that is no text becomes text, an empty one has no name to go by."""
    event = convert(capture(**{"order": {"id": 7, "items": [1, 2]}}, **{"": 1})).event
    assert event.attributes["order"] == {"id": 7, "items": (1, 2)}
    assert "" not in event.attributes
    captured = capture()
    captured[0][5] = "five"  # type: ignore[index]  # extra={5: ...} gets through logging
    assert convert(captured).event.attributes["5"] == "five"


def test_what_formatters_leave_on_a_record_is_no_extra() -> None:
    """message and asctime, set by another handler's formatter, are not the application's."""
    event = convert(capture(message="m", asctime="now")).event
    assert "message" not in event.attributes
    assert "asctime" not in event.attributes


def test_extras_of_a_record_class_that_sets_them_first() -> None:
    """Attributes set before logging's own are extras as well."""
    fields, context, audit, large = capture()
    early = {"tenant": "t"} | fields
    assert convert((early, context, audit, large)).event.attributes["tenant"] == "t"


@pytest.mark.parametrize("key", ["otel.event.name", "event.name"])
def test_an_event_name_is_promoted(key: str) -> None:
    """It becomes the record's EventName and is no attribute any more."""
    converted = convert(capture(**{key: "user.login"}))
    assert (converted.event.event_name, converted.otel.event_name) == ("user.login", "user.login")
    assert key not in otel_attributes(converted)


def test_a_bad_format_is_shown_and_counted_once() -> None:
    """The record says that its arguments did not fit."""
    made = converter()
    converted = made.convert(capture("x %d", "y"), 0)
    assert converted is not None
    assert converted.event.message == "x %d [arguments ('y',) do not fit]"
    assert str(converted.event.attributes["log.format_error"]).startswith("TypeError")
    made.convert(capture("x %d", ["y"]), 0)
    made.convert(capture("x"), 0)
    assert made.format_errors == 2


def test_secrets_are_redacted_everywhere() -> None:
    """Message, extras, exception and stack; neither form shows the secret."""
    secret = "password=hunter2hunter2"
    converted = convert(
        capture(
            secret,
            exc_info=(ValueError, ValueError(secret), None),
            stack_info=secret,
            password="hunter2hunter2",
            nested={"api_key": "hunter2hunter2"},
        ),
        redactor=Redactor(),
    )
    assert "hunter2" not in repr(converted.event)
    assert "hunter2" not in repr(converted.otel)
    assert "hunter2" not in repr(convert(capture(exc_text=secret), redactor=Redactor()).otel)


def test_a_long_message_is_cut_for_the_live_view_only() -> None:
    """The live view says how long the text was; OpenTelemetry gets all of it."""
    converted = convert(capture("x" * 2_000))
    assert converted.event.message == "x" * 1_000 + "… [cut: 2000 characters]"
    assert converted.otel.body == "x" * 2_000


def test_long_attributes_are_cut_for_the_live_view_only() -> None:
    """A text is cut, a large container gives way to its size; OpenTelemetry gets all of it."""
    fields = {"text": "x" * 3_000, "deep": {"a": ["y" * 3_000]}, "small": 1}
    converted = convert(capture(**fields))
    assert converted.event.attributes["text"] == "x" * 1_000 + "… [cut: 3000 characters]"
    assert str(converted.event.attributes["deep"]).startswith("… [cut: about ")
    assert converted.event.attributes["small"] == 1
    assert otel_attributes(converted)["text"] == "x" * 3_000
    for metadata in ({"k": "x" * 3_000}, "x" * 3_000):
        event = convert(audit(action="y" * 3_000, metadata=metadata)).event
        assert "[cut: 3000 characters]" in str(event.action)
        assert "[cut: 3000 characters]" in str(event.metadata)
    assert convert(audit(big="x" * 3_000)).event.action is UNSET


# -- audit records ----------------------------------------------------------------------------------------------------


def audit(event: AuditEvent | None = None, /, **fields: Any) -> Captured:
    captured = capture(**({"is_audit": True} | fields))
    if event is not None:
        captured[0][AUDIT_EVENT] = event
    return captured


def test_an_audit_record_has_its_attributes() -> None:
    """Flag, schema, action, metadata key by key, outcome and actor."""
    converted = convert(audit(action="role_grant", metadata={"role": "admin", "deep": {"a": 1}}))
    assert (converted.event.action, converted.event.metadata) == ("role_grant", {"role": "admin", "deep": {"a": 1}})
    attributes = otel_attributes(converted)
    assert attributes["is_audit"] is True
    assert attributes["audit.schema.version"] == "1.0.0"
    assert attributes["audit.action"] == "role_grant"
    assert attributes["audit.metadata.role"] == "admin"
    assert attributes["audit.metadata.deep"] == {"a": 1}
    assert attributes["audit.outcome"] == "unknown"
    assert (attributes["audit.actor.id"], attributes["audit.actor.type"]) == ("shop", "service")
    assert converted.event.attributes == attributes
    assert "action" not in attributes
    assert "metadata" not in attributes


def test_an_audit_record_by_its_logger_only() -> None:
    """Without action and metadata it has neither; its event name is the general one."""
    converted = convert(capture(name="audit.instance"), resource={})
    assert converted.event.is_audit is True
    assert (converted.event.action, converted.event.metadata) == (UNSET, UNSET)
    assert converted.event.event_name == "audit.event"
    assert "audit.action" not in otel_attributes(converted)
    assert "audit.actor.id" not in otel_attributes(converted)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, {}),
        (None, {}),
        ("text", {"audit.metadata": "text"}),
        ([1, 2], {"audit.metadata": (1, 2)}),
        ({1: 2}, {"audit.metadata.1": 2}),
    ],
)
def test_metadata_of_any_type(metadata: Any, expected: dict[str, Any]) -> None:
    """What is no mapping is one attribute."""
    attributes = otel_attributes(convert(audit(metadata=metadata)))
    assert {key: value for key, value in attributes.items() if key.startswith("audit.metadata")} == expected


@pytest.mark.parametrize(
    ("action", "event_name", "attribute"),
    [
        ("role_grant", "role.grant", "role_grant"),
        ("Role grant", "role.grant", "Role grant"),
        ("user.login", "user.login", "user.login"),
        ("§§", "audit.event", "§§"),
        (None, "audit.event", None),
        (17, "audit.event", "17"),
    ],
)
def test_an_event_name_is_made_of_the_action(action: Any, event_name: str, attribute: str | None) -> None:
    """Words with dots between, as event names are."""
    converted = convert(audit(action=action))
    assert converted.event.event_name == event_name
    assert otel_attributes(converted).get("audit.action") == attribute


def test_what_audit_log_was_told_wins() -> None:
    """Id, actor, target, outcome, source and event name of the event are in both forms."""
    told = AuditEvent(id="i", actor="u1", target="t1", outcome="success", event="user.grant", source="s1")
    converted = convert(audit(told, **{"event.name": "other"}))
    attributes = otel_attributes(converted)
    assert (converted.event.record_id, converted.event.event_name) == ("i", "user.grant")
    assert attributes["audit.record.id"] == "i"
    assert attributes["log.record.uid"] == "i"
    assert attributes["audit.actor.id"] == "u1"
    assert attributes["audit.target.id"] == "t1"
    assert attributes["audit.outcome"] == "success"
    assert attributes["audit.source.id"] == "s1"


def test_an_outcome_in_other_words() -> None:
    """The vocabulary has three words; another one is kept beside them."""
    attributes = otel_attributes(convert(audit(AuditEvent(id="i", outcome="denied"))))
    assert attributes["audit.outcome"] == "unknown"
    assert attributes["audit.outcome.given"] == "denied"


def test_an_exception_means_failure() -> None:
    """Unless the outcome was said."""
    error = (ValueError, ValueError("x"), None)
    assert otel_attributes(convert(audit(exc_info=error)))["audit.outcome"] == "failure"
    told = AuditEvent(id="i", outcome="success")
    assert otel_attributes(convert(audit(told, exc_info=error)))["audit.outcome"] == "success"


def test_the_surroundings_fill_in_what_was_not_said() -> None:
    """Actor, source and session of the context; the service acts only where nobody else does."""
    with audit_context(actor_id="u1", actor_type="user", source_id="s1", source_type="host", session_id="x"):
        plain = otel_attributes(convert(audit()))
        other = otel_attributes(convert(audit(AuditEvent(id="i", actor="u2", source="s2"))))
        same = otel_attributes(convert(audit(AuditEvent(id="i", actor="u1", source="s1"))))
    assert (plain["audit.actor.id"], plain["audit.actor.type"], plain["session.id"]) == ("u1", "user", "x")
    assert same == plain | {"audit.record.id": "i", "log.record.uid": "i"}
    assert (other["audit.actor.id"], other["audit.source.id"]) == ("u2", "s2")
    assert "audit.actor.type" not in other, "it was the other actor's"
    assert "audit.source.type" not in other


def test_an_extra_with_the_events_key_is_an_extra() -> None:
    """Only audit_log()'s own events are events."""
    assert otel_attributes(convert(audit(**{AUDIT_EVENT: {"id": 1}})))[AUDIT_EVENT] == {"id": 1}


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 128),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "20"}, 20),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "20", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "30"}, 30),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "many"}, 128),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": ""}, 128),
    ],
)
def test_the_limit_of_attributes_is_the_sdks(environ: dict[str, str], expected: int) -> None:
    """As the SDK reads it from the environment."""
    assert attribute_limit(environ) == expected


def test_of_too_many_attributes_the_applications_last_ones_go() -> None:
    """Ours are all there, and the live view has every one."""
    converted = convert(capture(**{f"key{number}": number for number in range(200)}))
    attributes = otel_attributes(converted)
    assert len(attributes) == 128
    assert attributes["key0"] == 0
    assert "key199" not in attributes
    assert attributes["code.line.number"] == 142
    assert converted.event.attributes["key199"] == 199


def test_metadata_with_very_many_keys_becomes_one_attribute() -> None:
    """Nothing of it is lost, and neither are the flag and the application's own attributes."""
    metadata = {f"key{number}": number for number in range(300)}
    converted = convert(audit(metadata=metadata, tenant="t"))
    attributes = otel_attributes(converted)
    assert len(attributes) <= 128
    assert attributes["audit.metadata"] == metadata
    assert attributes["is_audit"] is True
    assert attributes["tenant"] == "t"
    assert converted.event.metadata == metadata


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ((1, 2, None), (1, 2, None)),
        ((1, "a"), '[1,"a"]'),
        ((1, 2.5), "[1,2.5]"),
        (((1, "a"), (1, 2)), '[[1,"a"],[1,2]]'),
        (((1, "a"), (2, "b")), ('[1,"a"]', '[2,"b"]')),
        ({"a": {"b": ((1,), {"c": b"x"})}}, {"a": {"b": '[[1],{"c":"eA=="}]'}}),
    ],
)
def test_an_sdk_that_takes_no_mixed_sequences_gets_text(value: Any, expected: Any) -> None:
    """Nothing of them is lost; what is uniform stays."""
    assert _uniform(value) == expected


def test_the_sdk_is_asked_whether_it_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of records reach it whole."""
    monkeypatch.setattr("bridge.capture.convert._TAKES_MIXED_SEQUENCES", False)
    converted = convert(capture(value=[1, "a"]))
    assert otel_attributes(converted)["value"] == '[1,"a"]'
    assert converted.event.attributes["value"] == (1, "a")


def test_call_sites_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code made at run time does not fill the memory."""
    monkeypatch.setattr("bridge.capture.convert._MAX_CALL_SITES", 3)
    made = converter()
    for line in range(10):
        made.convert(capture(lineno=line), 0)
    assert len(made._sites) <= 3


# -- chatter of exporters ---------------------------------------------------------------------------------------------


SUPPRESSED = otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True)


def in_export(captured: Captured) -> Captured:
    fields, _, is_audit, large = captured
    context = copy_context()
    context.run(otel_context.attach, SUPPRESSED)
    return (fields, context, is_audit, large)


@pytest.mark.parametrize("name", ["urllib3", "urllib3.connectionpool", "grpc._channel", "opentelemetry.exporter.x"])
def test_what_a_transport_says_inside_an_export_is_ignored(name: str) -> None:
    """It is counted, not shown and not exported."""
    made = converter()
    assert made.convert(in_export(capture(name=name)), 0) is None
    assert made.ignored == 1


def test_what_a_transport_says_elsewhere_is_a_record() -> None:
    """The application's own requests are its own business."""
    made = converter()
    converted = made.convert(capture(name="urllib3.connectionpool"), 0)
    assert converted is not None
    assert converted.exportable is True
    assert made.ignored == 0


def test_an_audit_record_inside_an_export_is_kept() -> None:
    """Audit records are never ignored."""
    assert convert(in_export(capture(name="urllib3", is_audit=True))).event.is_audit is True


def test_an_application_that_suppresses_instrumentation_is_heard() -> None:
    """The key alone is no proof of an export."""
    assert convert(in_export(capture())).exportable is True


def test_records_of_export_threads_are_shown_and_not_exported() -> None:
    """Else one would beget the next: in the threads that run processors for us, and in the SDK's own."""
    stock = in_export(capture(threadName="OtelBatchLogRecordProcessor"))
    assert convert(stock).exportable is False
    assert convert(capture(threadName="OtelBatchThing")).exportable is True
    own = {threading.get_ident()}
    assert convert(capture(), own_threads=own).exportable is False
    assert convert(in_export(capture()), own_threads=own).exportable is False


# -- the last resort --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [{"created": float("nan")}, {"levelno": "high"}, {"lineno": []}, {"exc_info": 17, "msg": "m"}],
)
def test_a_record_that_can_not_be_converted_is_still_shown(broken: dict[str, Any]) -> None:
    """The fallback shows what it can and says that it failed."""
    fields, context, _, large = capture("[AUDIT] m")
    captured = (fields | broken, context, True, large)
    made = converter()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        made.convert(captured, SECOND)
    converted = made.fallback(captured, SECOND)
    assert converted.event.is_audit is True
    assert converted.event.timestamp == SECOND
    assert "m" in converted.event.message
    assert converted.event.attributes["bridge.conversion"] == "failed"
    assert otel_attributes(converted) == {"bridge.conversion": "failed", "is_audit": True}
