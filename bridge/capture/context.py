"""Who acts, and from where: context variables that every audit event inside inherits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from bridge.record import attributes as names
from bridge.record.values import AnyValue, safe_text

__all__ = ["AuditContext", "actor", "audit_context", "current_audit_context"]


class AuditContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the surroundings know about an audit event. ``""`` where nothing is known."""

    actor_id: str = ""
    actor_type: str = ""
    source_id: str = ""
    source_type: str = ""
    session_id: str = ""
    client_address: str = ""
    user_agent: str = ""
    request_id: str = ""

    def attributes(self) -> dict[str, AnyValue]:
        """The fields that are set, under their attribute names."""
        return {
            name: value
            for name, value in (
                (names.AUDIT_ACTOR_ID, self.actor_id),
                (names.AUDIT_ACTOR_TYPE, self.actor_type),
                (names.AUDIT_SOURCE_ID, self.source_id),
                (names.AUDIT_SOURCE_TYPE, self.source_type),
                (names.SESSION_ID, self.session_id),
                (names.CLIENT_ADDRESS, self.client_address),
                (names.USER_AGENT, self.user_agent),
                (names.REQUEST_ID, self.request_id),
            )
            if value
        }


_EMPTY = AuditContext()
_current: ContextVar[AuditContext] = ContextVar("bridge_audit_context", default=_EMPTY)


def current_audit_context() -> AuditContext:
    """The audit context of the running thread or task."""
    return _current.get()


@contextmanager
def audit_context(**fields: str) -> Iterator[AuditContext]:
    """Set fields of :class:`AuditContext` inside the block; the others stay as they are outside."""
    new = msgspec.structs.replace(_current.get(), **{key: safe_text(str(value)) for key, value in fields.items()})
    token = _current.set(new)
    try:
        yield new
    finally:
        try:
            _current.reset(token)
        except ValueError:
            # Left in another context than entered (an async generator closed by the garbage collector):
            # that context ends with its task, nothing is left to restore.
            pass


@contextmanager
def actor(id: str, *, type: str = "user", source: str | None = None, session: str | None = None) -> Iterator[None]:
    """Every audit event inside the block is this actor's.

    ``type`` is ``"user"``, ``"service"`` or ``"system"``; ``source`` and ``session`` say from where, if known.
    Works across ``await`` and in tasks started inside; a thread started inside begins without it.
    """
    fields = {"actor_id": id, "actor_type": type}
    if source is not None:
        fields["source_id"] = source
    if session is not None:
        fields["session_id"] = session
    with audit_context(**fields):
        yield
