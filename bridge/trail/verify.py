"""Judges copies of audit records: what is whole, what is missing, what was changed, and what can't be known.

Records may come in any order, from several copies, with several streams mixed. Of each record only its number and
hashes are kept (:mod:`bridge.trail.evidence`); the report is the same whatever the order was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from bridge.record import attributes as names
from bridge.record.values import INT64_MAX, AnyValue
from bridge.trail.canonical import CANONICALIZATION, AuditRecord, canonical_form, mapping_bytes, uncovered
from bridge.trail.chain import Anchor, Chain, Checkpoint, key_change_message
from bridge.trail.evidence import Evidence
from bridge.trail.findings import Finding, Kind, Numbers, Report, StreamReport
from bridge.trail.housekeeping import CHECKPOINT, KEY_CHANGE, SCOPE, STREAM_CLOSE, STREAM_OPEN
from bridge.trail.judge import Voucher, Walk

__all__ = ["CheckSignature", "Verifier"]

CheckSignature: TypeAlias = Callable[[str, bytes, bytes], "bool | None"]
"""Key id, signature, message → whether it is good; None if the key is not known."""

_NO_HASH: Final = bytes(32)
_MAX_NAMES: Final = 100
_MAX_RESOURCES: Final = 64


class Verifier:
    """Takes records with `add`, any number of them, and gives a `Report` whenever asked.

    ``anchors``: where streams stood once, kept elsewhere. ``verify`` knows the public keys; without it no signature is
    looked at, and all streams count as unsigned. ``require_signed`` makes UNSIGNED_TAIL and UNSIGNED_STREAM findings.

    Not thread-safe.
    """

    def __init__(
        self,
        *,
        anchors: Iterable[Anchor] = (),
        verify: CheckSignature | None = None,
        require_signed: bool = False,
    ) -> None:
        self._anchors = tuple(anchors)
        self._verify = verify
        self._require_signed = require_signed
        self._streams: dict[str, _Stream] = {}
        self._unchained = 0

    def add(self, record: AuditRecord, *, resource: Mapping[str, AnyValue] | None = None, defect: str = "") -> None:
        """One copy of a record, with its ``resource`` if that is known.

        ``defect`` is what its reader saw and a record can't hold, above all an attribute that is there twice (readers
        differ in which one they show): the copy counts as modified. Never raises for what is in a record.
        """
        get = record.attributes.get
        stream_id = get(names.AUDIT_SEQUENCE_STREAM_ID)
        number = get(names.AUDIT_SEQUENCE_NUMBER)
        previous = get(names.AUDIT_SEQUENCE_PREV_HASH)
        if stream_id is None and number is None and previous is None:
            # Copies that a team's own exporter sent, and records of others.
            self._unchained += 1
            return
        name = stream_id if type(stream_id) is str else ""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(name)
        if not name or type(number) is not int or not 0 < number <= INT64_MAX or type(previous) is not str:
            stream.unplaced("a stream, a number and a previous hash are not all there")
            return
        try:
            form, left_out = canonical_form(record)
        except (ValueError, TypeError, RecursionError) as error:
            stream.defect(number, f"it can't be hashed: {error}")
            return
        digest = hashlib.sha256(form)
        stated = get(names.AUDIT_INTEGRITY_HASH)
        bare = stated is None or stated == ""
        if not bare and stated != digest.hexdigest():
            stream.evidence.add(number, digest.digest(), _hash(previous), wrong=True)
            if record.event_name == STREAM_OPEN:
                stream.see_version(get(names.STREAM_CANONICALIZATION))
            return
        if defect:
            stream.defect(number, defect)
            return
        stream.evidence.add(number, digest.digest(), _hash(previous), bare=bare)
        if left_out > (stated is not None):
            stream.see_added(uncovered(record.attributes))
        if resource is not None:
            stream.see_resource(resource)
        if record.scope == SCOPE:
            self._housekeeping(stream, record, number, previous)

    def _housekeeping(self, stream: _Stream, record: AuditRecord, number: int, previous: str) -> None:
        event = record.event_name
        if event == CHECKPOINT:
            told = Checkpoint.read(record)
            if (
                told is None
                or (told.stream_id, told.number, told.head) != (stream.stream_id, number - 1, previous)
                or told.canonicalization != CANONICALIZATION
            ):
                stream.odd_checkpoints.add(number)
            elif told.signature:
                if self._check(stream, number, told.key_id, told.signature, told.message()):
                    stream.signed.add((told.number, _hash(told.head)))
        elif event == KEY_CHANGE:
            self._key_change(stream, record, Chain(stream.stream_id, number - 1, previous), number)
        elif event == STREAM_OPEN and number == 1:
            stream.opened(record)
        elif event == STREAM_CLOSE:
            stream.closed_at.add(number)

    def _key_change(self, stream: _Stream, record: AuditRecord, chain: Chain, number: int) -> None:
        old, new, public, signature = (
            value if isinstance(value := record.attributes.get(name), str) else ""
            for name in (names.KEY_ID, names.KEY_NEW_ID, names.KEY_NEW_PUBLIC, names.KEY_SIGNATURE)
        )
        if not signature:
            return
        message = key_change_message(chain, time=record.timestamp, key_id=old, new_key_id=new, new_public=public)
        try:
            raw = bytes.fromhex(signature)
        except ValueError:
            stream.bad_signatures.setdefault(old, set()).add(number)
            return
        if self._check(stream, number, old, raw, message):
            stream.introduced[new] = min(old, stream.introduced.get(new, old))
            stream.signed.add((chain.number, _hash(chain.head)))

    def _check(self, stream: _Stream, number: int, key_id: str, signature: bytes, message: bytes) -> bool:
        """Whether a signature is good. Anything else is noted."""
        if self._verify is None:
            stream.unchecked.add(number)
            return False
        answer = self._verify(key_id, signature, message)
        if answer is None:
            stream.unknown_keys.setdefault(key_id, set()).add(number)
        elif not answer:
            stream.bad_signatures.setdefault(key_id, set()).add(number)
        return answer is True

    @property
    def size(self) -> int:
        """Bytes kept for the records themselves, without the slack of the arrays."""
        return sum(each.evidence.size for each in self._streams.values())

    def report(self) -> Report:
        """All that can be said by now. More records may follow."""
        vouchers: dict[str, list[Voucher]] = {}
        retired: dict[str, int] = {}
        for anchor in self._anchors:
            if anchor.number > 0:
                vouchers.setdefault(anchor.stream_id, []).append(
                    Voucher(anchor.number, _hash(anchor.head), "an anchor")
                )
            if anchor.retired:
                retired[anchor.stream_id] = max(anchor.number, retired.get(anchor.stream_id, 0))
        for stream_id in sorted(self._streams):
            for before in self._streams[stream_id].previous:
                source = f"stream {stream_id}, which was opened after it,"
                vouchers.setdefault(before.stream_id, []).append(Voucher(before.number, _hash(before.head), source))
        reports = []
        for stream_id in sorted(self._streams.keys() | vouchers.keys()):
            told = vouchers.get(stream_id, [])
            stream = self._streams.get(stream_id)
            if stream is not None:
                reports.append(self._stream_report(stream, told, retired.get(stream_id, 0)))
            elif (most := max(each.number for each in told)) > retired.get(stream_id, 0):
                sources = " and ".join(sorted({each.source for each in told}))
                words = f"no record of it is here, and {sources} knows of {most}"
                missing = Finding(Kind.MISSING_STREAM, stream_id, words, most, ((1, most),))
                reports.append(StreamReport(stream_id, findings=(missing,)))
        return Report(tuple(reports), self._unchained, tuple(self._unknown()))

    def _stream_report(self, stream: _Stream, vouchers: list[Voucher], retired: int) -> StreamReport:
        signed = [Voucher(number, head, "a signature", False) for number, head in sorted(stream.signed)]
        walk = Walk(stream.evidence, [*vouchers, *signed], retired=retired, named=stream.defective)
        findings = [*walk.findings(stream.stream_id), *stream.findings()]
        signed_to = max((number for number, _ in stream.signed), default=0)
        if stream.evidence.highest_whole:
            # Signatures that are not good are named already.
            claimed = [signed_to, *(n - 1 for each in stream.claims() for n in each)]
            note = not self._require_signed
            if not any(claimed):
                words = "no signature: whoever could write to the trail could have written it anew"
                if stream.unchecked:
                    words = f"{len(stream.unchecked)} signatures, and no keys to check them with"
                findings.append(Finding(Kind.UNSIGNED_STREAM, stream.stream_id, words, note=note))
            elif walk.last > max(claimed) + 1:  # the checkpoint itself comes after what it signs
                tail = Numbers()
                tail.add(max(claimed) + 2, walk.last)
                words = "no signature reaches so far: this may have been written anew, or cut"
                findings += tail.finding(Kind.UNSIGNED_TAIL, stream.stream_id, words, note=note)
        # A checkpoint may come after the record that closes a stream.
        closed = any(walk.last - 1 <= number <= walk.last for number in stream.closed_at)
        unknown = stream.unknown()
        if walk.last and not closed and walk.anchored_to < walk.last:
            unknown.append(
                f"whether it went on after record {walk.last}: it was not closed, and no anchor reaches there"
            )
        return StreamReport(
            stream.stream_id,
            walk.records,
            walk.first,
            walk.last,
            signed_to,
            walk.anchored_to,
            closed,
            tuple(sorted(findings, key=lambda each: (each.note, each.ranges[:1], each.kind, each.words))),
            tuple(unknown),
        )

    def _unknown(self) -> Iterable[str]:
        if self._unchained:
            yield f"{self._unchained} records are in no chain; nothing was checked of them"
        if not self._anchors:
            yield "without an anchor: whether streams were cut, left out or written anew by whoever holds the key"
        if self._verify is None:
            yield "without keys: who wrote the streams"


class _Stream:
    """What is kept of a stream: the evidence, and a little for every checkpoint and other record about the trail."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.evidence = Evidence()
        self.signed: set[tuple[int, bytes]] = set()
        self.unchecked: set[int] = set()
        self.odd_checkpoints: set[int] = set()
        self.bad_signatures: dict[str, set[int]] = {}
        self.unknown_keys: dict[str, set[int]] = {}
        self.introduced: dict[str, str] = {}
        self.closed_at: set[int] = set()
        self.previous: list[Anchor] = []
        self._unplaced: dict[str, int] = {}
        self._defects: dict[str, set[int]] = {}
        self._added: set[str] = set()
        self._versions: set[str] = set()
        self._opened: dict[bytes, Mapping[str, AnyValue]] = {}
        self._last_resource: Mapping[str, AnyValue] | None = None
        self._resources: dict[bytes, Mapping[str, AnyValue]] = {}

    def unplaced(self, problem: str) -> None:
        self._unplaced[problem] = self._unplaced.get(problem, 0) + 1

    def defect(self, number: int, problem: str) -> None:
        self._defects.setdefault(problem, set()).add(number)
        # No two of them are known to be the same.
        self.evidence.add(number, len(self.evidence).to_bytes(32), _NO_HASH, wrong=True)

    @property
    def defective(self) -> set[int]:
        """Numbers of copies that nothing can be said of."""
        return {number for numbers in self._defects.values() for number in numbers}

    def see_added(self, added: Iterable[str]) -> None:
        self._added.update(added)
        if len(self._added) > _MAX_NAMES:  # the same ones, whatever the order
            self._added = set(sorted(self._added)[:_MAX_NAMES])

    def see_version(self, version: AnyValue) -> None:
        if isinstance(version, str) and version != CANONICALIZATION:
            self._versions.add(version)

    def see_resource(self, resource: Mapping[str, AnyValue]) -> None:
        if resource is self._last_resource:  # readers share one between records
            return
        self._last_resource = resource
        try:
            self._resources[hashlib.sha256(mapping_bytes(resource)).digest()] = resource
        except (ValueError, TypeError, RecursionError):
            self._resources[b""] = {}
        if len(self._resources) > _MAX_RESOURCES:
            del self._resources[max(self._resources)]

    def opened(self, record: AuditRecord) -> None:
        get = record.attributes.get
        resource = get(names.STREAM_RESOURCE)
        told = resource if isinstance(resource, Mapping) else {}
        self._opened[mapping_bytes(told)] = told
        stream_id, number, head = (
            get(names.STREAM_PREVIOUS_ID),
            get(names.STREAM_PREVIOUS_NUMBER),
            get(names.STREAM_PREVIOUS_HEAD),
        )
        if isinstance(stream_id, str) and isinstance(head, str) and type(number) is int and number > 0:
            before = Anchor(stream_id, number, head)
            if before not in self.previous:
                self.previous.append(before)

    def claims(self) -> Iterable[set[int]]:
        """Numbers of records with signatures that prove nothing here, and are findings by themselves."""
        return [*self.bad_signatures.values(), *self.unknown_keys.values()]

    def findings(self) -> list[Finding]:
        """All but what numbers and hashes show."""
        found: list[Finding] = []
        for problem, count in self._unplaced.items():
            found.append(Finding(Kind.MODIFIED, self.stream_id, f"{count} records have no place: {problem}", count))
        for problem, numbers in self._defects.items():
            words = f"what was written can't be told from this copy: {problem}"
            found += _numbers(numbers).finding(Kind.MODIFIED, self.stream_id, words)
        words = "the checkpoint does not say what stood before it, or says it in no known form"
        found += _numbers(self.odd_checkpoints).finding(Kind.MODIFIED, self.stream_id, words)
        for key_id, numbers in self.bad_signatures.items():
            words = f"the signature is not one of key {key_id!r}"
            found += _numbers(numbers).finding(Kind.MODIFIED, self.stream_id, words)
        for key_id, numbers in self.unknown_keys.items():
            words = f"signed by key {key_id!r}, which is not among those given"
            if key_id in self.introduced:
                words += f"; a record that key {self.introduced[key_id]!r} signed brings it in"
            found += _numbers(numbers).finding(Kind.UNKNOWN_KEY, self.stream_id, words)
        changed = self._changed_resource()
        if changed:
            words = f"records came under another resource than they were written under: {', '.join(changed)}"
            found.append(Finding(Kind.MODIFIED, self.stream_id, words))
        return found

    def _changed_resource(self) -> list[str]:
        """Names of what the opening record says otherwise. A collector may add more."""
        if not self._opened:
            return []
        told = self._opened[min(self._opened)]  # there are several only if there is a conflict
        return sorted(
            {
                name
                for seen in self._resources.values()
                for name in told
                if mapping_bytes({name: told[name]}) != mapping_bytes({name: seen.get(name)})
            }
        )

    def unknown(self) -> list[str]:
        found: list[str] = []
        if not self.evidence.highest_whole:
            return found
        if not self._opened:
            found.append("under which resource it was written, and whether a stream came before: no opening record")
        elif not self._resources:
            found.append("whether its records still stand under their resource: their reader did not tell")
        if self._versions:
            found.append(f"what canonical form {', '.join(sorted(self._versions))} is: this release knows 1")
        if self.evidence.bare:
            found.append(
                f"{self.evidence.bare} records came without a hash of their own; only the next one proves each"
            )
        if self._added:
            names_shown = ", ".join(sorted(self._added))
            found.append(f"attributes that no hash covers, added on the way or by anybody: {names_shown}")
        if self.introduced:
            keys = ", ".join(sorted(self.introduced))
            found.append(f"keys that signed records bring in, and that count only if given: {keys}")
        return found


def _numbers(numbers: Iterable[int]) -> Numbers:
    found = Numbers()
    for number in sorted(numbers):
        found.add(number)
    return found


def _hash(text: str) -> bytes:
    """The 32 bytes, or as many that are no record's hash."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return _NO_HASH
    return found if len(found) == len(_NO_HASH) else _NO_HASH
