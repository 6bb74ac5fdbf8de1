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
USER_ID: Final = "user.id"
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

# What makes a record part of a trail. The number and the previous hash are the draft's, the others own.
AUDIT_SEQUENCE: Final = "audit.sequence."
AUDIT_SEQUENCE_STREAM_ID: Final = AUDIT_SEQUENCE + "stream_id"
AUDIT_SEQUENCE_NUMBER: Final = AUDIT_SEQUENCE + "number"
AUDIT_SEQUENCE_PREV_HASH: Final = AUDIT_SEQUENCE + "prev_hash"
AUDIT_SEQUENCE_COVERED: Final = AUDIT_SEQUENCE + "covered"
AUDIT_INTEGRITY: Final = "audit.integrity."
AUDIT_INTEGRITY_HASH: Final = AUDIT_INTEGRITY + "hash"

# What the trail says about itself; all own.
STREAM_RESOURCE: Final = "audit.stream.resource"
STREAM_RESOURCE_HASH: Final = "audit.stream.resource_hash"
STREAM_CANONICALIZATION: Final = "audit.stream.canonicalization"
STREAM_PREVIOUS_ID: Final = "audit.stream.previous.id"
STREAM_PREVIOUS_NUMBER: Final = "audit.stream.previous.number"
STREAM_PREVIOUS_HEAD: Final = "audit.stream.previous.head"
STREAM_REASON: Final = "audit.stream.reason"
LOSS_COUNT: Final = "audit.loss.count"
LOSS_FROM: Final = "audit.loss.from"
LOSS_TO: Final = "audit.loss.to"
LOSS_REASON: Final = "audit.loss.reason"
DEAD_LETTER_STREAM_ID: Final = "audit.dead_letter.stream_id"
DEAD_LETTER_NUMBER: Final = "audit.dead_letter.number"
DEAD_LETTER_RECORD_ID: Final = "audit.dead_letter.record_id"
DEAD_LETTER_DESTINATION: Final = "audit.dead_letter.destination"
DEAD_LETTER_ANSWER: Final = "audit.dead_letter.answer"
CHECKPOINT_STREAM_ID: Final = "audit.checkpoint.stream_id"
CHECKPOINT_NUMBER: Final = "audit.checkpoint.number"
CHECKPOINT_HEAD: Final = "audit.checkpoint.head"
CHECKPOINT_TIME: Final = "audit.checkpoint.time"
CHECKPOINT_KEY_ID: Final = "audit.checkpoint.key_id"
CHECKPOINT_CANONICALIZATION: Final = "audit.checkpoint.canonicalization"
CHECKPOINT_SIGNATURE: Final = "audit.checkpoint.signature"
KEY_ID: Final = "audit.key.id"
KEY_NEW_ID: Final = "audit.key.new_id"
KEY_NEW_PUBLIC: Final = "audit.key.new_public"
KEY_SIGNATURE: Final = "audit.key.signature"

# What the receiver adds; all own but the two of "otel.", which are OpenTelemetry's names for formats without a scope.
SCOPE_VERSION: Final = "otel.scope.version"
SCOPE_PREFIX: Final = "otel.scope."
DROPPED_ATTRIBUTES: Final = "otel.dropped_attributes_count"
AUDIT_REFUSED: Final = "bridge.audit_refused"  # the source may not show audit records
ID_CONFLICT: Final = "bridge.id_conflict"  # another record came before with the same id

SCHEMA_VERSION: Final = "1.0.0"
