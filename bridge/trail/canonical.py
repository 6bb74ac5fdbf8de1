"""A record as the bytes that are hashed: the same for every honest copy of it, and for no other record.

The form is RFC 8785 (JSON Canonicalization Scheme) of one object::

    {"attributes": {name: VALUE, …}, "body": VALUE, "canonicalization": "1", "event_name": "…",
     "observed_timestamp": "…", "scope": "…", "severity_number": "…", "severity_text": "…", "span_id": "…",
     "timestamp": "…", "trace_flags": "…", "trace_id": "…"}

- **All leaves are strings.** JSON has one kind of number, which is a double: nanoseconds do not fit. A VALUE says its
  type as OTLP/JSON does: ``{"stringValue": "a"}``, ``{"boolValue": "true"}``, ``{"intValue": "-7"}``,
  ``{"doubleValue": "0.1"}``, ``{"bytesValue": "base64, padded"}``, ``{"arrayValue": [VALUE, …]}``,
  ``{"kvlistValue": {key: VALUE, …}}``. So 1, 1.0, "1" and true differ. A double is written as ECMAScript writes it,
  which is what RFC 8785 asks for: the shortest digits that give the same double, else ``NaN``, ``Infinity`` or
  ``-Infinity``. Zero has no sign (many JSON readers lose it) and all NaN are the same.
- **Absent = empty = default.** A field of the record that is 0 or ``""`` is left out, as protobuf leaves it out; so is
  an id of zeros, which is OTLP's "none". An attribute, a member of a map or a body that is null, ``""``, ``b""``,
  ``[]`` or ``{}`` is left out too, and a map that is empty after that; several hops drop some of these or turn one
  into the other. In an array, where the position counts, any of them is ``{}``. 0, 0.0 and false are values: OTLP keeps
  them, and ``approved=false`` is not the same as nothing said.
- **Which attributes.** Collectors add attributes (``host.name``) that must not break the hash, while an application may
  give its own any name. So the record says itself which count: `covered` holds the rule. Everything under
  ``audit.`` and what the audit lane says about who, from where and by which line of the program always counts, listed
  or not, so that nobody can add an actor or an address to a record that had none. Any other attribute counts if
  ``audit.sequence.covered`` names it, and that list is hashed itself: a listed attribute that was removed, changed or
  renamed, and a list that was changed, give another hash. What was added under another name gives the same hash;
  it is *not* part of what is proven, and `uncovered` names it, to be shown apart or left out. A namespace rule alone
  would leave the application's extras unproven; a list of known collectors' names would be out of date.
- ``audit.integrity.*`` is left out, listed or not: the hash can't contain itself.

Two records of which neither is the other's copy never have the same form: JSON strings and type tags leave no second
reading, and what is taken as equal is what stands above. Whoever turns OTLP into a record sees one thing that a record
can't hold, the same attribute twice; see :meth:`bridge.trail.verify.Verifier.add` for how to tell it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from bridge.record import attributes as names
from bridge.record.values import AnyValue

__all__ = [
    "CANONICALIZATION",
    "AuditRecord",
    "canonical_bytes",
    "canonical_form",
    "covered",
    "double_text",
    "hash_of",
    "mapping_bytes",
    "must_list",
    "uncovered",
]

CANONICALIZATION: Final = "1"
"""Version of the canonical form. It stands in the hashed bytes, in every stream's first record and in checkpoints."""

# Not process.*: collectors that copy the resource to the records write it.
_ALWAYS: Final = (
    names.AUDIT_FLAG,
    names.RECORD_UID,
    names.CLIENT_ADDRESS,
    names.USER_AGENT,
    names.SESSION_ID,
    names.USER_ID,
    names.REQUEST_ID,
    names.CODE_FILE_PATH,
    names.CODE_FUNCTION_NAME,
    names.CODE_LINE_NUMBER,
    names.STACK_INFO,
    names.THREAD_ID,
    names.THREAD_NAME,
    names.EXCEPTION_TYPE,
    names.EXCEPTION_MESSAGE,
    names.EXCEPTION_STACKTRACE,
    "",  # no name at all: a list that names it loses it on the way
)
_AUDIT: Final = "audit."

# Names of which it is known without a look that they count: most of a record's.
_KNOWN: Final = frozenset(
    (
        *_ALWAYS,
        names.AUDIT_RECORD_ID,
        names.AUDIT_ACTOR_ID,
        names.AUDIT_ACTOR_TYPE,
        names.AUDIT_ACTION,
        names.AUDIT_OUTCOME,
        names.AUDIT_TARGET_ID,
        names.AUDIT_TARGET_TYPE,
        names.AUDIT_SOURCE_ID,
        names.AUDIT_SOURCE_TYPE,
        names.AUDIT_SCHEMA_VERSION,
        names.AUDIT_METADATA,
        names.AUDIT_SEQUENCE_STREAM_ID,
        names.AUDIT_SEQUENCE_NUMBER,
        names.AUDIT_SEQUENCE_PREV_HASH,
        names.AUDIT_SEQUENCE_COVERED,
    )
)
_NOTHING: Final[frozenset[str]] = frozenset()


class AuditRecord(msgspec.Struct, frozen=True):
    """A record of the trail, as it is hashed, stored and sent. Redacted already.

    Times are ns since 1970, UTC, 0 if none. Ids are lower-case hex, ``""`` if none. ``scope`` is the name of the
    instrumentation scope. Values are frozen (`bridge.record.values.freeze`); a list is as good as a tuple. Attributes
    include those of the sequence and the hash, once the record has them.
    """

    event_name: str = ""
    body: AnyValue = None
    timestamp: int = 0
    observed_timestamp: int = 0
    trace_id: str = ""
    span_id: str = ""
    trace_flags: int = 0
    severity_number: int = 0
    severity_text: str = ""
    scope: str = ""
    attributes: Mapping[str, AnyValue] = {}


def canonical_bytes(record: AuditRecord) -> bytes:
    """The canonical form of ``record``, as the module's docstring has it.

    An attribute that neither its name nor ``audit.sequence.covered`` makes count is not in it: a record that has not
    been appended to a chain has no such list yet.

    Raises ValueError for text that is no Unicode (lone surrogates), TypeError for a value that is no AnyValue, and
    RecursionError for nesting deeper than the interpreter allows.
    """
    return canonical_form(record)[0]


def hash_of(record: AuditRecord) -> str:
    """SHA-256 of the canonical form, in hex: what ``audit.integrity.hash`` says. Raises as `canonical_bytes`."""
    return hashlib.sha256(canonical_form(record)[0]).hexdigest()


def canonical_form(record: AuditRecord) -> tuple[bytes, int]:
    """The canonical form, and how many attributes do not count. Raises as `canonical_bytes`."""
    attributes = record.attributes
    counting, left_out = _counting(attributes)
    span_id, trace_id = record.span_id, record.trace_id
    body = _value(record.body)
    # In the order of the fields: keywords cost a microsecond.
    form = _Form(
        _members(attributes, counting) or UNSET,
        UNSET if body is None else body,
        CANONICALIZATION,
        record.event_name or UNSET,
        str(record.observed_timestamp) if record.observed_timestamp else UNSET,
        record.scope or UNSET,
        str(record.severity_number) if record.severity_number else UNSET,
        record.severity_text or UNSET,
        span_id if span_id.strip("0") else UNSET,
        str(record.timestamp) if record.timestamp else UNSET,
        str(record.trace_flags) if record.trace_flags else UNSET,
        trace_id if trace_id.strip("0") else UNSET,
    )
    return msgspec.json.encode(form), left_out


class _Form(msgspec.Struct, frozen=True, gc=False):
    """The object that is hashed. The fields are in the order of RFC 8785, and UNSET where absent.

    msgspec keeps the order of fields and dicts, and escapes texts exactly as RFC 8785 (section 3.2.2.2) wants it, for a
    quarter less than it costs to put the text together in Python.
    """

    attributes: dict[str, object] | UnsetType
    body: dict[str, object] | UnsetType
    canonicalization: str
    event_name: str | UnsetType
    observed_timestamp: str | UnsetType
    scope: str | UnsetType
    severity_number: str | UnsetType
    severity_text: str | UnsetType
    span_id: str | UnsetType
    timestamp: str | UnsetType
    trace_flags: str | UnsetType
    trace_id: str | UnsetType


def mapping_bytes(attributes: Mapping[str, AnyValue]) -> bytes:
    """The canonical form of a map by itself, all of it: ``{name: VALUE, …}``. Raises as `canonical_bytes`."""
    return msgspec.json.encode(_members(attributes, _in_order(attributes)))


def covered(attributes: Mapping[str, AnyValue]) -> frozenset[str]:
    """The names that a record says are hashed, besides those that always are."""
    told = attributes.get(names.AUDIT_SEQUENCE_COVERED)
    if not isinstance(told, (tuple, list)):
        return _NOTHING
    return frozenset([name for name in told if type(name) is str])


def must_list(attributes: Iterable[str]) -> list[str]:
    """Of these names those that ``audit.sequence.covered`` must list to have them hashed, sorted."""
    return sorted([name for name in attributes if name not in _KNOWN and not name.startswith(_AUDIT)])


def uncovered(attributes: Mapping[str, AnyValue]) -> list[str]:
    """Of a chained record's attributes those that its hash does not prove, sorted; without ``audit.integrity.hash``."""
    return sorted(set(_not_counting(attributes)) - {names.AUDIT_INTEGRITY_HASH})


def _not_counting(attributes: Mapping[str, AnyValue]) -> list[str]:
    listed = covered(attributes)
    return [
        name
        for name in attributes.keys() - _KNOWN
        if (name.startswith(names.AUDIT_INTEGRITY) if name.startswith(_AUDIT) else name not in listed)
    ]


def _counting(attributes: Mapping[str, AnyValue]) -> tuple[list[str], int]:
    """The names that count in the order of RFC 8785, and how many do not."""
    told = attributes.get(names.AUDIT_SEQUENCE_COVERED)
    listed: tuple[Any, ...] = tuple(told) if isinstance(told, (tuple, list)) else ()
    key = (tuple(attributes), listed)
    try:
        return _PLANS[key]
    except KeyError:
        try:
            remember = len("".join(key[0] + listed)) <= _MAX_PLAN_CHARS
        except TypeError:  # no name at all where one should be
            remember = False
    except TypeError:  # the same, and it can't even be looked up
        remember = False
    left_out = _not_counting(attributes)
    plan = _in_order(attributes.keys() - left_out), len(left_out)
    if remember:
        if len(_PLANS) >= _MAX_PLANS:
            _PLANS.clear()
        _PLANS[key] = plan
    return plan


# The lines of a program that write audit records give them the same names in the same order again and again: to sort
# them and to see which count is a quarter of all the work. The key is all that the answer depends on.
_PLANS: Final[dict[tuple[object, object], tuple[list[str], int]]] = {}
_MAX_PLANS: Final = 512
_MAX_PLAN_CHARS: Final = 4_096


def _in_order(keys: Iterable[str]) -> list[str]:
    """Sorted by UTF-16 code units (RFC 8785, section 3.2.3).

    Python sorts by code points. That is the same, but where characters beyond U+FFFF, whose surrogates begin at
    U+D800, meet those from U+E000 on.
    """
    ordered = sorted(keys)
    if not "".join(ordered).isascii():
        ordered.sort(key=_utf_16)
    return ordered


def _members(mapping: Mapping[str, AnyValue], ordered: Iterable[str]) -> dict[str, object]:
    """These keys with their VALUEs, without what is as good as absent."""
    found: dict[str, object] = {}
    for name in ordered:
        value = mapping[name]
        # Most are texts.
        if type(value) is str:
            if value:
                found[name] = {"stringValue": value}
        else:
            told = _value(value)
            if told is not None:
                found[name] = told
    return found


def _utf_16(text: str) -> bytes:
    return text.encode("utf-16-be")


def _value(value: Any) -> dict[str, object] | None:
    """A VALUE, None for one that is as good as absent."""
    kind = type(value)
    if kind is str:
        return {"stringValue": value} if value else None
    if kind is bool:
        return {"boolValue": "true" if value else "false"}
    if kind is int:
        return {"intValue": str(value)}
    if value is None:
        return None
    if kind is float:
        return {"doubleValue": double_text(value)}
    if kind is tuple or kind is list:
        return {"arrayValue": [_value(each) or {} for each in value]} if value else None
    if isinstance(value, Mapping):
        members = _members(value, _in_order(value))
        return {"kvlistValue": members} if members else None
    if kind is bytes:
        return {"bytesValue": base64.b64encode(value).decode()} if value else None
    raise TypeError(f"no AnyValue: {kind.__qualname__}")


def double_text(number: float) -> str:
    """As ECMAScript's Number::toString, which RFC 8785 (section 3.2.2.3) names, and for what JSON has no number."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "Infinity" if number > 0 else "-Infinity"
    # Both give the shortest digits that read back as the same double; they differ in when they use an exponent.
    text = repr(number)
    digits, _, exponent = text.partition("e")
    if not exponent:
        text = text.removesuffix(".0")
        return "0" if text == "-0" else text
    power = int(exponent)
    sign, digits = ("-", digits[1:]) if digits[0] == "-" else ("", digits)
    if -7 < power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}"
    if 0 < power < 21:
        whole, _, fraction = digits.partition(".")
        return f"{sign}{whole}{fraction}{'0' * (power - len(fraction))}"
    return f"{sign}{digits}e{power:+d}"
