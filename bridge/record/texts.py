"""The texts of a record, as filters look at them."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator

from bridge.record.attributes import SERVICE_NAME
from bridge.record.event import UNSET, LogEvent
from bridge.record.values import AnyValue

__all__ = ["all_text", "scalar_text", "strings"]


def scalar_text(value: AnyValue) -> str:
    """A scalar as text, as the JSON of the wire has it."""
    if type(value) is str:
        return value
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is bytes:
        return b2a_base64(value, newline=False).decode()
    return str(value)


def all_text(event: LogEvent) -> str:
    """All text of a record in one piece, in lower case. NUL keeps the fields apart."""
    texts = [
        event.message,
        event.logger,
        event.level,
        event.event_name,
        event.module,
        event.function,
        event.trace_id,
        event.span_id,
        event.record_id,
    ]
    exception = event.exception
    if exception is not None:
        texts += (exception.type, exception.message, exception.stacktrace)
    for key, value in event.attributes.items():
        texts.append(key)
        if type(value) is not str:
            _gather(value, texts)
        # The attributes hold the exception's texts as well: the same objects, and long.
        elif exception is None or (value is not exception.stacktrace and value is not exception.message):
            texts.append(value)
    for whole in (event.action, event.metadata, event.resource.get(SERVICE_NAME)):
        if whole is not None and whole is not UNSET:
            _gather(whole, texts)
    return "\0".join(texts).casefold()


def _gather(value: AnyValue, texts: list[str]) -> None:
    if type(value) is str:
        texts.append(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            texts.append(key)
            _gather(item, texts)
    elif type(value) is tuple:
        for item in value:
            _gather(item, texts)
    else:
        texts.append(scalar_text(value))


def strings(event: LogEvent) -> Iterator[str]:
    """The message, the texts of the exception and the strings in attributes, one by one as they are."""
    yield event.message
    exception = event.exception
    if exception is not None:
        yield exception.type
        yield exception.message
        yield exception.stacktrace
    for value in event.attributes.values():
        if exception is None or (value is not exception.stacktrace and value is not exception.message):
            yield from _strings_in(value)


def _strings_in(value: AnyValue) -> Iterator[str]:
    if type(value) is str:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings_in(item)
    elif type(value) is tuple:
        for item in value:
            yield from _strings_in(item)
