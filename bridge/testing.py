"""For the tests of services: assert audit events, without a disk, a server or a thread.

With pytest the fixture ``audit_events`` is there as soon as the package is installed::

    def test_grant_is_audited(audit_events):
        grant_role("u1", "admin")
        audit_events.assert_logged(action="role_grant", actor="u8472", outcome="success")
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bridge.capture import audit
from bridge.capture.handler import CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from bridge.record import attributes as names
from bridge.record.event import UNSET, LogEvent
from bridge.record.redact import Redactor

try:
    import pytest
except ImportError:  # usable without pytest: see record_events()
    pytest = None  # type: ignore[assignment]

__all__ = ["RecordedEvents", "record_events"]

_FIELDS = {
    "actor": names.AUDIT_ACTOR_ID,
    "actor_type": names.AUDIT_ACTOR_TYPE,
    "target": names.AUDIT_TARGET_ID,
    "outcome": names.AUDIT_OUTCOME,
    "source": names.AUDIT_SOURCE_ID,
    "session": names.SESSION_ID,
}


class RecordedEvents(Sequence[LogEvent]):
    """The audit events logged so far, oldest first. ``system`` has the other records."""

    def __init__(self) -> None:
        # Here, not above: as a pytest plugin this module is imported in every test run of every project that has
        # the package, and OpenTelemetry takes a third of a second to import.
        from bridge.capture.convert import Converter

        self._drops = Drops()
        self._queue: CallQueue[Any] = CallQueue(1_000_000, 1 << 30)
        self._queue.idle = False  # nobody to wake: records are converted when they are looked at
        self._handler = CaptureHandler(self._queue, self._drops)
        self._converter = Converter(Redactor(), resource={names.SERVICE_NAME: "test"}, text_chars=1 << 20)
        self._all: list[LogEvent] = []

    def _events(self) -> list[LogEvent]:
        for captured in self._queue.take(len(self._queue)):
            converted = self._converter.convert(captured, 0)
            if converted is not None:
                self._all.append(converted.event)
        return self._all

    @property
    def audit(self) -> list[LogEvent]:
        """The audit events."""
        return [event for event in self._events() if event.is_audit]

    @property
    def system(self) -> list[LogEvent]:
        """All other records."""
        return [event for event in self._events() if not event.is_audit]

    def __len__(self) -> int:
        return len(self.audit)

    def __getitem__(self, index: Any) -> Any:
        return self.audit[index]

    def matching(self, **fields: Any) -> list[LogEvent]:
        """Audit events with these fields.

        ``action``, ``metadata`` (a mapping: these keys with these values at least), ``message``, ``level``, ``logger``,
        ``event_name``, ``actor``, ``actor_type``, ``target``, ``outcome``, ``source``, ``session``; any other name is
        an attribute.
        """
        return [event for event in self.audit if all(_has(event, name, value) for name, value in fields.items())]

    def assert_logged(self, *, times: int | None = None, **fields: Any) -> LogEvent:
        """Exactly ``times`` audit events (at least one if not given) have these fields. Returns the last of them.

        Raises AssertionError that shows what was logged instead.
        """
        found = self.matching(**fields)
        if (times is None and not found) or (times is not None and len(found) != times):
            wanted = "at least one" if times is None else str(times)
            logged = "\n  ".join(_shown(event) for event in self.audit) or "(none)"
            raise AssertionError(
                f"{wanted} audit event(s) with {fields!r} expected, {len(found)} found. Logged:\n  {logged}"
            )
        return found[-1] if found else UNSET  # type: ignore[return-value]  # times=0: there is none

    def assert_none(self, **fields: Any) -> None:
        """No audit event has these fields; without fields: there is none at all."""
        self.assert_logged(times=0, **fields)

    def clear(self) -> None:
        """Forget what was logged so far."""
        self._events()
        self._all.clear()


def _has(event: LogEvent, name: str, value: Any) -> bool:
    if name in ("action", "message", "level", "logger", "event_name"):
        return bool(getattr(event, name) == value)
    if name == "metadata":
        given = event.metadata if isinstance(event.metadata, dict) else {}
        return all(key in given and given[key] == wanted for key, wanted in dict(value).items())
    return bool(event.attributes.get(_FIELDS.get(name, name)) == value)


def _shown(event: LogEvent) -> str:
    parts = [f"action={event.action!r}"] if event.action is not UNSET else []
    parts += [f"{name}={event.attributes[key]!r}" for name, key in _FIELDS.items() if key in event.attributes]
    return f"{event.logger}: {event.message!r} " + " ".join(parts)


@contextmanager
def record_events() -> Iterator[RecordedEvents]:
    """Record every event inside the block, whether ``bridge.setup()`` was called or not."""
    recorded = RecordedEvents()
    handler = recorded._handler
    root = logging.getLogger()
    audit_logger = logging.getLogger("audit")
    level = audit_logger.level
    if level == logging.NOTSET:
        audit_logger.setLevel(logging.INFO)
    root.addHandler(handler)
    audit.targets.append(handler)
    try:
        yield recorded
    finally:
        audit.targets.remove(handler)
        root.removeHandler(handler)
        audit_logger.setLevel(level)


if pytest is not None:

    @pytest.fixture
    def audit_events() -> Iterator[RecordedEvents]:
        """Audit events logged during the test."""
        with record_events() as recorded:
            yield recorded
