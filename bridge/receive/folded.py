"""OTLP's log messages with resources, scopes, bodies and attributes left folded: as the bytes they are on the wire.

Protobuf gives an object for every attribute and one for its value, and these are most of what receiving costs. But
attributes repeat: where in the program, which thread, which route. To a parser that is told so, a nested message is a
field of bytes, and bytes that have come before need no second look. The numbers and types of the other fields are
those of opentelemetry/proto/logs/v1/logs.proto; fields that are not named here are skipped, as protobuf does it.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["FoldedRequest"]

_Field: Final = descriptor_pb2.FieldDescriptorProto

# Message → its fields: name, number, type or message, whether repeated.
_MESSAGES: Final[dict[str, tuple[tuple[str, int, Any, bool], ...]]] = {
    "Request": (("resource_logs", 1, "ResourceLogs", True),),
    "ResourceLogs": (("resource", 1, _Field.TYPE_BYTES, False), ("scope_logs", 2, "ScopeLogs", True)),
    "ScopeLogs": (("scope", 1, _Field.TYPE_BYTES, False), ("log_records", 2, "LogRecord", True)),
    "LogRecord": (
        ("time_unix_nano", 1, _Field.TYPE_FIXED64, False),
        ("severity_number", 2, _Field.TYPE_INT32, False),
        ("severity_text", 3, _Field.TYPE_STRING, False),
        ("body", 5, _Field.TYPE_BYTES, False),
        ("attributes", 6, _Field.TYPE_BYTES, True),
        ("dropped_attributes_count", 7, _Field.TYPE_UINT32, False),
        ("flags", 8, _Field.TYPE_FIXED32, False),
        ("trace_id", 9, _Field.TYPE_BYTES, False),
        ("span_id", 10, _Field.TYPE_BYTES, False),
        ("observed_time_unix_nano", 11, _Field.TYPE_FIXED64, False),
        ("event_name", 12, _Field.TYPE_STRING, False),
    ),
}


def _make() -> Any:
    package = "bridge.receive"
    file = descriptor_pb2.FileDescriptorProto(name="bridge/receive/folded.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = kind
    # A pool of its own: the default one belongs to the whole process.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Request"))


FoldedRequest: Final = _make()
"""The message class of an ``ExportLogsServiceRequest``, folded."""
