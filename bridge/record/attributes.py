"""Names of attributes, in one place.

Sources: OpenTelemetry semantic conventions (``code.*``, ``exception.*``, ``thread.*``, ``client.*``,
``user_agent.*``, ``session.*``, ``log.record.uid``); the draft OTEP 0267 "Audit Logging" (``audit.*``), which is
not merged, so these names may still move. Names marked "own" are this project's.
"""

from __future__ import annotations

from typing import Final

CODE_FILE_PATH: Final = "code.file.path"
CODE_FUNCTION_NAME: Final = "code.function.name"
CODE_LINE_NUMBER: Final = "code.line.number"

# Until semantic conventions 1.30 the same three had these names; received records still carry them.
CODE_FILE_PATH_OLD: Final = "code.filepath"
CODE_FUNCTION_NAME_OLD: Final = "code.function"
CODE_LINE_NUMBER_OLD: Final = "code.lineno"

THREAD_ID: Final = "thread.id"
THREAD_NAME: Final = "thread.name"
PROCESS_PID: Final = "process.pid"
PROCESS_NAME: Final = "process.name"  # own: multiprocessing's name of the process, if it is not the main one
TASK_NAME: Final = "asyncio.task.name"  # own

EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
STACK_INFO: Final = "code.stacktrace"

EVENT_NAME: Final = "event.name"  # deprecated as an attribute; promoted to the record's EventName
OTEL_EVENT_NAME: Final = "otel.event.name"
RECORD_UID: Final = "log.record.uid"

SERVICE_NAME: Final = "service.name"

CLIENT_ADDRESS: Final = "client.address"
USER_AGENT: Final = "user_agent.original"
SESSION_ID: Final = "session.id"
REQUEST_ID: Final = "request.id"  # own

AUDIT_FLAG: Final = "is_audit"
AUDIT_RECORD_ID: Final = "audit.record.id"
AUDIT_ACTOR_ID: Final = "audit.actor.id"
AUDIT_ACTOR_TYPE: Final = "audit.actor.type"
AUDIT_ACTION: Final = "audit.action"
AUDIT_OUTCOME: Final = "audit.outcome"
AUDIT_TARGET_ID: Final = "audit.target.id"
AUDIT_TARGET_TYPE: Final = "audit.target.type"
AUDIT_SOURCE_ID: Final = "audit.source.id"
AUDIT_SOURCE_TYPE: Final = "audit.source.type"
AUDIT_SCHEMA_VERSION: Final = "audit.schema.version"
AUDIT_METADATA: Final = "audit.metadata"  # own; one attribute a top-level key: "audit.metadata.<key>"
AUDIT_METADATA_PREFIX: Final = AUDIT_METADATA + "."

# What the receiver adds; all own but the two of "otel.", which are OpenTelemetry's names for formats without a scope.
SCOPE_VERSION: Final = "otel.scope.version"
SCOPE_PREFIX: Final = "otel.scope."
DROPPED_ATTRIBUTES: Final = "otel.dropped_attributes_count"
AUDIT_REFUSED: Final = "bridge.audit_refused"  # the source may not show audit records
ID_CONFLICT: Final = "bridge.id_conflict"  # another record came before with the same id

SCHEMA_VERSION: Final = "1.0.0"
