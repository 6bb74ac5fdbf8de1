"""One walk along a stream, with all the evidence in hand: in which order it came makes no difference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from bridge.trail.chain import EMPTY_HASH
from bridge.trail.evidence import Evidence, Group
from bridge.trail.findings import Finding, Kind, Numbers

__all__ = ["Voucher", "Walk"]

_START = bytes.fromhex(EMPTY_HASH)


class Voucher(msgspec.Struct, frozen=True):
    """Somebody says that the record with this number had this hash."""

    number: int
    head: bytes
    source: str
    """In words: ``an anchor``."""
    outside: bool = True
    """False if the stream says so itself (a signed checkpoint)."""


class Walk:
    """What the numbers and hashes of one stream show.

    Records that are not what their own hash says fill the place that they claim, if there is a gap or it is right after
    the end; a number that was changed to something far off opens no gap up to there.

    What is missing up to ``retired`` was given up on purpose. Of the numbers ``named`` somebody else says why they are
    wrong.
    """

    def __init__(
        self,
        evidence: Evidence,
        vouchers: Sequence[Voucher],
        *,
        retired: int = 0,
        named: Collection[int] = (),
    ) -> None:
        self._vouchers: dict[int, list[Voucher]] = {}
        for voucher in vouchers:
            self._vouchers.setdefault(voucher.number, []).append(voucher)
        self._retired = retired
        self._named = named
        self._highest_whole = evidence.highest_whole
        self._wrong = Numbers()
        self._broken = Numbers()
        self._gaps = Numbers()
        self._duplicates = Numbers()
        self._conflicts = Numbers()
        self._forks = Numbers()
        self._denied: dict[str, Numbers] = {}
        self._starts = True
        # Records without a hash of their own which nothing else proves. That is no news where none has one.
        self._unproven = Numbers()
        self._bare = False
        self._some_have_hashes = evidence.bare < len(evidence)
        self._conflict_open = False
        """The group before this one has more than one hash, and it isn't known yet whether both chains go on."""
        self.records = 0
        self.first = 0
        self.last = 0
        self.anchored_to = 0
        self._before: Mapping[bytes, bytes] = {_START: b""}
        """The group with the number ``last``: empty if nothing is known of its hash."""
        for group in evidence.groups():
            self._group(group)
        self._close_conflict()
        if self._bare:
            self._unproven.add(self.last)
        self._promised = max((each.number for each in vouchers if each.outside), default=0)

    def _group(self, group: Group) -> None:
        number = group.number
        self.records += len(group.whole) + (1 if group.wrong and not group.whole else 0)
        if group.wrong:
            if number not in self._named:
                self._wrong.add(number)
            if not group.whole and number > max(self._highest_whole, self.last + 1):
                return
        if group.repeated:
            self._duplicates.add(number)
        if not self.first:
            self.first = number
        if number > self.last + 1:
            self._close_conflict()
            if self._bare:
                self._unproven.add(self.last)
            missing = max(self.last, self._retired) + 1
            if missing < number:
                self._gaps.add(missing, number - 1)
            self._before = {}
            # Of the last one missing somebody else may know the hash.
            self._hear(number - 1, group.whole.values())
        self._link(group)
        self._bare = group.bare
        self._hear(number, group.whole.keys())
        self.last = number
        self._before = group.whole

    def _hear(self, number: int, hashes: Collection[bytes]) -> None:
        """Compare what others say of a record with the hashes that it has, or that the next ones say it had."""
        for voucher in self._vouchers.get(number, ()):
            if voucher.head in hashes:
                self._bare = False
                if voucher.outside:
                    self.anchored_to = number
            elif hashes:
                self._denied.setdefault(voucher.source, Numbers()).add(number)

    def _link(self, group: Group) -> None:
        before, now = self._before, group.whole
        followed = before.keys() & set(now.values())
        if len(now) > 1:
            if len(before) > 1 and len(followed) > 1:
                self._forks.add(group.number - 1)
                self._forks.add(group.number)
                self._conflict_open = False
            else:
                self._close_conflict()
                self._conflict_open = True
            return
        self._close_conflict()
        if before and now and not followed:
            if group.number > 1:
                self._broken.add(group.number - 1)
            else:
                self._starts = False

    def _close_conflict(self) -> None:
        if self._conflict_open:
            self._conflicts.add(self.last)
        self._conflict_open = False

    def findings(self, stream_id: str) -> list[Finding]:
        """All that the walk has shown."""
        found = self._wrong.finding(
            Kind.MODIFIED, stream_id, "the content does not fit its own hash: changed since it was written"
        )
        found += self._broken.finding(
            Kind.MODIFIED,
            stream_id,
            "this is not the record that the next one followed: one of the two was replaced",
        )
        if not self._starts:
            words = "the first record does not start a chain: it names one before it"
            found.append(Finding(Kind.MODIFIED, stream_id, words, 1, ((1, 1),)))
        if self._some_have_hashes:
            words = "it came without its own hash, unlike others, and nothing else proves it"
            found += self._unproven.finding(Kind.MODIFIED, stream_id, words)
        found += self._gaps.finding(Kind.GAP, stream_id, "missing, though later records are here")
        found += self._conflicts.finding(
            Kind.CONFLICT, stream_id, "there are different records with this number, each whole in itself"
        )
        found += self._forks.finding(
            Kind.FORK, stream_id, "two chains go on with the same numbers: a copy of the trail was written on"
        )
        for source, denied in self._denied.items():
            words = f"{source} says that another record stood here than this one, or than the next one follows"
            found += denied.without(self._broken).finding(Kind.CONFLICT, stream_id, words)
        if self._promised > self.last:
            sources = " and ".join(sorted({each.source for each in self._vouchers[self._promised] if each.outside}))
            cut = Numbers()
            cut.add(self.last + 1, self._promised)
            words = f"the end is missing: {sources} knows of record {self._promised}"
            found += cut.finding(Kind.TRUNCATED, stream_id, words)
        found += self._duplicates.finding(
            Kind.DUPLICATE, stream_id, "came more than once, each time the same", note=True
        )
        return found
