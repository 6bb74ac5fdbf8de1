"""What the senders of both languages send, as a version 2 client has to get it."""

from typing import Any

from tests.serving import Message

AT = "2025-11-24T16:00:00.123Z"
TRACE: dict[str, Any] = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
RESOURCE = {"service.name": "storefront", "service.version": "7.1", "host.cpus": 8, "host.tags": ["eu", "blue"]}
VERSION = {"otel.scope.version": "2.3.4"}


def expected(kind: str, message: str, level: str = "INFO", number: int = 9, **more: Any) -> Message:
    """A record of the scope storefront.cart; of what is None, nothing is sent."""
    data = {
        "timestamp": AT,
        "level": level,
        "logger": "storefront.cart",
        "message": message,
        "severity_number": number,
        "service": "storefront",
        "attributes": VERSION,
        "resource": RESOURCE,
    } | more
    return {"type": kind, "data": {key: value for key, value in data.items() if value is not None}}


KINDS = [
    expected(
        "system_log",
        "Stock is low – 3 left ✓",  # noqa: RUF001
        "WARNING",
        14,
        **TRACE,
        attributes=VERSION
        | {
            "text": 'naïve \0 "quoted" 😀',
            "empty": "",
            "yes": True,
            "no": False,
            "zero": 0,
            "negative": -42,
            "large": 9_007_199_254_740_991,
            "double": 0.1,
            "bytes": "AAH+/w==",
            "texts": ["a", "", "c"],
            "mixed": [1, 2.5, True, None, "x", ["y"]],
            "nothing": None,
            "nested": {"sku": "b-17", "sizes": [38, 39.5], "stock": {"left": 3, "sold": None}},
        },
    ),
    expected("system_log", "at TRACE", "TRACE", 1),
    expected("system_log", "at DEBUG", "DEBUG", 5),
    expected("system_log", "at INFO", "INFO", 9),
    expected("system_log", "at WARN", "WARNING", 13),
    expected("system_log", "at ERROR", "ERROR", 17),
    expected("system_log", "at FATAL", "CRITICAL", 21),
    expected("system_log", "without a text", "INFO", 11),
    expected("system_log", "without a severity", "NOTSET", severity_number=None),
    expected(
        "system_log",
        "Total failed",
        "ERROR",
        17,
        exception={
            "type": "TypeError",
            "message": "price is not a number",
            "stacktrace": "TypeError: price is not a number\n    at total (cart.js:12:5)",
        },
    ),
    expected(
        "system_log",
        '{"order":17,"lines":[{"sku":"b-17","price":9.5}],"coupon":null}',
        event_name="cart.checked_out",
    ),
    expected(
        "audit_log",
        "Role granted",
        **TRACE,
        action="role_grant",
        metadata={"role": "admin"},
        id="dd6481af-690a-445f-9b9c-d629c291e968",
        actor="ann",
        target="user/u17",
        outcome="success",
        attributes=VERSION
        | {
            "is_audit": True,
            "audit.action": "role_grant",
            "audit.actor.id": "ann",
            "audit.target.id": "user/u17",
            "audit.outcome": "success",
            "audit.metadata.role": "admin",
            "log.record.uid": "dd6481af-690a-445f-9b9c-d629c291e968",
        },
    ),
    expected("audit_log", "by its name", logger="audit.role", attributes=None),
    expected("audit_log", "[AUDIT] by its text"),
    expected("system_log", "no", attributes=VERSION | {"is_audit": False}),
]
"""In the order in which they are logged. OTLP has them by scope, so audit.role may come later."""


def compared(messages: list[Message]) -> list[tuple[str, Message]]:
    """Messages in the order of their texts, without what no sender can know: the cursor and the peer."""
    found = [
        (
            each["data"]["message"],
            {"type": each["type"], "data": {k: v for k, v in each["data"].items() if k != "peer"}},
        )
        for each in messages
    ]
    return sorted(found, key=lambda pair: pair[0])


def types(value: Any) -> Any:
    """The types of a value and of all that it holds; ``==`` takes 1, 1.0 and True for the same."""
    if isinstance(value, dict):
        return {key: types(each) for key, each in value.items()}
    if isinstance(value, list):
        return [types(each) for each in value]
    return type(value)


def without_mixed(value: Any) -> Any:
    """What OpenTelemetry for Python makes of it up to 1.39: None of every list of several types."""
    if isinstance(value, dict):
        return {key: without_mixed(each) for key, each in value.items()}
    if isinstance(value, list):
        return None if len({type(each) for each in value if each is not None}) > 1 else [*map(without_mixed, value)]
    return value


def assert_whole(messages: list[Message], *, mixed: bool = True) -> None:
    """These are the records of :data:`KINDS`, to the last value and type; ``mixed``: also lists of several types."""
    found, wanted = compared(messages), compared(KINDS)
    if not mixed:
        wanted = [(text, without_mixed(each)) for text, each in wanted]
    assert found == wanted
    assert [types(each) for _, each in found] == [types(each) for _, each in wanted]
