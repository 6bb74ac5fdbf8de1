"""``attr``: an attribute by its key, its short name or the path to it, and its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from bridge.record.attributes import AUDIT_ACTOR_ID, AUDIT_RECORD_ID, AUDIT_SOURCE_ID, AUDIT_TARGET_ID
from bridge.record.conditions import Condition, EventTest, FilterError, all_of
from bridge.record.event import UNSET, LogEvent
from bridge.record.globs import TextTest, canonical_glob, glob_test
from bridge.record.texts import scalar_text
from bridge.record.values import AnyValue

__all__ = ["MAX_ATTRIBUTE_DOTS", "parse_attr"]

MAX_ATTRIBUTE_DOTS: Final = 16
"""Dots in an attribute's key: each may be a step into a nested map; records nest no deeper than eight."""

# Names of the record on the wire whose attribute is not simply "audit." and the name.
_IDS: Final = {
    "actor": AUDIT_ACTOR_ID,
    "id": AUDIT_RECORD_ID,
    "source": AUDIT_SOURCE_ID,
    "target": AUDIT_TARGET_ID,
}

_ValueTest: TypeAlias = Callable[[AnyValue], bool]


def parse_attr(given: list[str]) -> Condition:
    """All must hold: ``key`` that it is there, ``key:glob`` that a value fits."""
    tests: dict[str, EventTest] = {}
    for value in sorted(set(given)):
        key, colon, pattern = value.partition(":")
        if not key:
            raise FilterError("attr", value, "the attribute's key is missing", "write attr=key:value", 0)
        if not colon and "=" in key:
            raise FilterError("attr", value, "a colon separates key and value", "write attr=key:value", key.index("="))
        if key.count(".") > MAX_ATTRIBUTE_DOTS:
            raise FilterError("attr", value, f"a key may have {MAX_ATTRIBUTE_DOTS} dots", "shorten it")
        glob = canonical_glob("attr", value, pattern)
        if colon and glob != "*":
            tests[f"{key}:{glob}"] = _attribute_test(key, _value_test(glob_test(glob)))
        else:
            tests[key] = _attribute_test(key, lambda value: True)
    values = sorted(tests)
    return Condition(values, all_of([tests[value] for value in values]))


def _value_test(test: TextTest) -> _ValueTest:
    """Tests a value by its text; of a list any element. Python's spelling of flags and 5 for 5.0 do as well."""

    def matches(value: AnyValue) -> bool:
        if type(value) is str:
            return test(value)
        if type(value) is tuple:
            return any(map(matches, value))
        if isinstance(value, dict):
            return False
        if test(scalar_text(value)):
            return True
        if value is None or type(value) is bool:
            return test(str(value))
        return type(value) is float and value.is_integer() and test(str(int(value)))

    return matches


def _attribute_test(key: str, matches: _ValueTest) -> EventTest:
    """Tests what has this name: an attribute, by its short name too, a detail of an audit record, or the resource's."""
    in_attributes = _ways(key, f"audit.{key}", _IDS.get(key, key))
    in_metadata = _ways(key, key.removeprefix("metadata."))
    in_resource = _ways(key)
    is_action, is_id, is_metadata = key == "action", key == "id", key == "metadata"

    def test(event: LogEvent) -> bool:
        if _reach(event.attributes, in_attributes, matches):
            return True
        if is_action and event.action is not None and event.action is not UNSET and matches(event.action):
            return True
        if is_id and event.record_id and matches(event.record_id):
            return True
        metadata = event.metadata
        if isinstance(metadata, dict) and _reach(metadata, in_metadata, matches):
            return True
        if is_metadata and metadata is not None and metadata is not UNSET and matches(metadata):
            return True
        return _reach(event.resource, in_resource, matches)

    return test


class _Ways(NamedTuple):
    """How to reach a value: by its name, or with a step into a nested map and the path from there."""

    names: list[str]
    steps: list[tuple[str, str]]


def _ways(*paths: str) -> _Ways:
    """The ways along any of these paths: a dot in a path separates, or belongs to a key."""
    names = list(dict.fromkeys(paths))
    return _Ways(names, [(path[:i], path[i + 1 :]) for path in names for i, dot in enumerate(path) if dot == "."])


def _reach(mapping: Mapping[str, AnyValue], ways: _Ways, matches: _ValueTest) -> bool:
    """Whether a value at the end of one of the ways matches."""
    for name in ways.names:
        if name in mapping and matches(mapping[name]):
            return True
    for name, rest in ways.steps:
        inner = mapping.get(name)
        if isinstance(inner, dict) and _reach(inner, _ways(rest), matches):
            return True
    return False
