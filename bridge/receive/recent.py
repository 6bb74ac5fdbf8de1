"""Which ids were seen lately. Pure.

At-least-once delivery brings a record again whenever an answer was lost. Its id tells, for as long as it is remembered.
"""

from __future__ import annotations

import enum

__all__ = ["RecentIds", "Seen"]


class Seen(enum.Enum):
    """What an id and a content have to do with those that came before."""

    NEW = enum.auto()
    AGAIN = enum.auto()
    """The same content under the same id: a copy."""
    OTHER = enum.auto()
    """Another content under the same id. Never left out: else whoever guesses an id could hide a record."""


class RecentIds:
    """At least the last ``number`` ids, at most twice as many. Not thread-safe.

    Two generations: when the younger is full, the older is forgotten at once. That costs nothing a record, where an
    exact window would cost a deque's worth.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def look(self, record_id: str, content: int) -> Seen:
        """What is known of ``record_id``; ``content`` is a hash of all that makes the record what it is.

        Nothing is remembered by it: see :meth:`keep`.
        """
        known = self._young.get(record_id)
        if known is None:
            known = self._old.get(record_id)
        if known is None:
            return Seen.NEW
        return Seen.AGAIN if known == content else Seen.OTHER

    def keep(self, record_id: str, content: int) -> None:
        """Remember an id and its first content."""
        if self._number < 1:
            return
        if len(self._young) >= self._number:
            self._old, self._young = self._young, {}
        self._young[record_id] = content

    def forget(self, record_id: str) -> None:
        """As if it had never come."""
        self._young.pop(record_id, None)
        self._old.pop(record_id, None)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
