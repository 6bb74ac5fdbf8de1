"""What both decoders share: what they give, and the fields that need a second look. Pure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from bridge.record import attributes as names
from bridge.record.event import LogEvent
from bridge.record.globs import canonical_glob, glob_test
from bridge.record.received import EventBuilder
from bridge.record.values import INT64_MAX, AnyValue, size_of

__all__ = [
    "Budget",
    "Decoded",
    "Malformed",
    "Origin",
    "Origins",
    "Pairs",
    "TooMany",
    "by_time",
    "check_numbers",
    "clamp_time",
]

MAX_RECORDS: Final = 200_000
"""Records in one request, and likewise scopes and resources. Each can be two bytes long and still costs a thousand."""

MAX_ATTRIBUTES: Final = 1_024
"""Attributes of a record, a scope or a resource that are looked at; the next one says how many more there were."""

MAX_DEPTH: Final = 16
"""Values within values; what lies deeper is replaced by ``"<depth limit>"``."""

MAX_ELEMENTS: Final = 1_000_000
"""Elements of arrays and maps within values, over one request: two bytes each in there, a hundred here."""

# Attributes remembered, and how long one may be on the wire: 5 MB at most, and 1 MB for those that came once.
_MAX_PAIRS: Final = 16_384
_MAX_PAIR_BYTES: Final = 120

_TIMESTAMP: Final = attrgetter("timestamp")

# Resources remembered, so that their records share one dict. A sender has one; a collector brings those of many.
_MAX_RESOURCES: Final = 1_024
_MAX_RESOURCE_BYTES: Final = 16_384


class Malformed(ValueError):
    """A request that is no OTLP. ``str()`` says where and why."""


class TooMany(ValueError):
    """A request with more records, scopes or resources than :data:`MAX_RECORDS`."""

    def __init__(self, number: int) -> None:
        words = f"{number} records, scopes or resources in one request; at most {MAX_RECORDS}: send smaller batches"
        super().__init__(words)


class Decoded(NamedTuple):
    """The events of a request, in its order, and what had to be left out of it."""

    events: list[LogEvent]
    rejected: int = 0
    """Records that could not be read."""
    problem: str = ""
    """What was wrong with the first of them."""


class Origin(NamedTuple):
    """What the records of one resource have in common."""

    resource: Mapping[str, AnyValue]
    may_audit: bool


class Pairs:
    """Attributes by what they are on the wire, redacted. For any thread.

    Only what comes a second time is remembered: else the ids in the records would soon have pushed out all else.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[str, AnyValue]] = {}
        self._once: set[int] = set()

    def keep(self, raw: bytes, pair: tuple[str, AnyValue]) -> None:
        """Remember a pair, if it is short and has come before."""
        if len(raw) > _MAX_PAIR_BYTES:
            return
        mark = hash(raw)
        if mark in self._once:
            if len(self.known) >= _MAX_PAIRS:
                self.known.clear()
            self.known[raw] = pair
        else:
            if len(self._once) >= _MAX_PAIRS:
                self._once.clear()
            self._once.add(mark)


class Origins:
    """Resources by what they are on the wire, so that records of one sender share one. For any thread.

    ``audit_sources``: globs of service names that may show audit records.
    """

    def __init__(self, builder: EventBuilder, audit_sources: tuple[str, ...] = ("*",)) -> None:
        self._builder = builder
        self._audit_sources = tuple(glob_test(canonical_glob("audit_sources", glob, glob)) for glob in audit_sources)
        self._known: dict[bytes, Origin] = {}
        self.pairs = Pairs()
        self._lock = threading.Lock()

    def find(self, wire: bytes, decode: Callable[[], dict[str, AnyValue]]) -> Origin:
        """The origin that ``wire`` stands for; ``decode()`` gives its attributes if it is new."""
        origin = self._known.get(wire)
        if origin is None:
            resource = self._builder.resource(decode())
            service = resource.get(names.SERVICE_NAME)
            name = service if isinstance(service, str) else ""
            origin = Origin(resource, any(fits(name) for fits in self._audit_sources))
            if len(wire) <= _MAX_RESOURCE_BYTES and size_of(dict(resource)) <= _MAX_RESOURCE_BYTES:
                with self._lock:
                    if len(self._known) >= _MAX_RESOURCES:
                        self._known.clear()
                    self._known[wire] = origin
        return origin


def by_time(events: list[LogEvent], start: int) -> None:
    """Put the events from ``start`` on, those of one resource with several scopes, in the order of their times.

    OTLP groups records by scope, so that of a program's loggers each comes after the other, whatever was said first.
    """
    events[start:] = sorted(events[start:], key=_TIMESTAMP)


class Budget:
    """How many elements of containers a request may still have looked at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_ELEMENTS

    def take(self, wanted: int) -> int:
        """Up to ``wanted`` of what is left."""
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


def check_numbers(numbers: Iterable[int]) -> None:
    """Raise :class:`TooMany` at the first number that is too large; what comes after it is not counted."""
    for number in numbers:
        if number > MAX_RECORDS:
            raise TooMany(number)


def clamp_time(nanoseconds: int) -> int:
    """A time as the rest of the program can hold it."""
    return nanoseconds if 0 <= nanoseconds <= INT64_MAX else INT64_MAX if nanoseconds > 0 else 0
