"""A plain, slow reading of a filter's parameters, and made-up parameters and records to compare it with."""

from __future__ import annotations

import itertools
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from bridge.record.event import UNSET, ExceptionInfo, LogEvent
from tests.record.queries import TRACE

letters = st.text('aAbBß.*? "\n', max_size=6)
keys = st.sampled_from(["a", "b", "a.b", "b.a", "a.a.b", "action", "audit.action", "actor", "audit.actor.id", "id"])
scalars = letters | st.none() | st.booleans() | st.integers(-3, 20) | st.sampled_from([0.5, 5.0, float("nan"), b"ab"])
any_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
maps = st.dictionaries(keys, any_values, max_size=4)
events = st.builds(
    LogEvent,
    timestamp=st.just(1),
    observed_timestamp=st.just(1),
    severity_number=st.integers(0, 24),
    level=st.sampled_from(["INFO", "ERROR", "warning", "notice", ""]),
    logger=letters | st.sampled_from(["a.b", "a.b.a", "ab"]),
    message=letters,
    is_audit=st.booleans(),
    module=letters,
    function=letters,
    event_name=letters,
    trace_id=st.sampled_from(["", TRACE, "ab" * 16]),
    record_id=st.sampled_from(["", "ab"]),
    action=st.just(UNSET) | any_values,
    metadata=st.just(UNSET) | any_values,
    attributes=maps,
    resource=st.fixed_dictionaries({}, optional={"service.name": letters, "a": any_values}),
    exception=st.none() | st.builds(ExceptionInfo, letters, letters, letters),
)


# The first regular expression imports RE2, which may take longer than a single example should.
untimed = settings(deadline=None)


PATTERNS = ["a", "^a", "a+b", "(?i)B", "[.*]", "a|b", "ß", "(a+)+b"]
words = st.text("aAbBß.*", min_size=1, max_size=3)
phrases = st.text("aAbB .", max_size=4).map(lambda text: f'"{text}"')
globs = st.text("aAbB.*?", min_size=1, max_size=6)
parameters = st.lists(
    st.tuples(st.just("streams"), st.sampled_from(["system", "audit", "audit,system"]))
    | st.tuples(st.just("logger"), globs)
    | st.tuples(st.just("service"), words)
    | st.tuples(st.just("attr"), keys | st.builds("{}:{}".format, keys, globs | st.sampled_from(["true", "5", ""]))),
    max_size=4,
)
single = st.fixed_dictionaries(
    {},
    optional={
        "min_severity": st.sampled_from(["DEBUG", "WARN", "17", "0"]),
        "trace_id": st.sampled_from(["4bf9", "4BF92F", TRACE, "abab"]),
        "q": st.lists(words | phrases, max_size=3).map(" ".join),
        "re": st.sampled_from(PATTERNS),
    },
)
queries = st.builds(lambda many, one: [*many, *one.items()], parameters, single)


def naive_glob(glob: str, text: str) -> bool:
    pattern = "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in glob)
    return re.fullmatch(pattern, text, re.DOTALL) is not None


def naive_texts(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [text for item in value for text in naive_texts(item)]
    if isinstance(value, dict):
        return []
    if value is None or isinstance(value, bool):
        return [str(value), {None: "null", True: "true", False: "false"}[value]]
    if isinstance(value, bytes):
        return [b64encode(value).decode()]
    return [str(value), "5"] if value == 5.0 else [str(value)]


def naive_all(value: Any, with_keys: bool) -> list[Any]:
    if isinstance(value, tuple):
        return [found for item in value for found in naive_all(item, with_keys)]
    if isinstance(value, dict):
        inner = [found for item in value.values() for found in naive_all(item, with_keys)]
        return [*value, *inner] if with_keys else inner
    return [value]


def naive_values(mapping: Mapping[str, Any], key: str) -> list[Any]:
    """Every value that some way of cutting the key at dots leads to."""
    found = []
    parts = key.split(".")
    for cuts in itertools.product([True, False], repeat=len(parts) - 1):
        path = [parts[0]]
        for cut, part in zip(cuts, parts[1:], strict=True):
            if cut:
                path.append(part)
            else:
                path[-1] += "." + part
        value: Any = mapping
        for name in path:
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            found.append(value)
    return found


def naive(given: list[tuple[str, str]], record: LogEvent) -> bool:
    def all_of(name: str) -> list[str]:
        return [value for key, value in given if key == name]

    if streams := ",".join(all_of("streams")):
        if ("audit" if record.is_audit else "system") not in streams.split(","):
            return False
    for lowest in all_of("min_severity"):
        number = record.severity_number or {"INFO": 9, "ERROR": 17, "warning": 13}.get(record.level, 0)
        if number < {"DEBUG": 5, "WARN": 13, "17": 17, "0": 0}[lowest]:
            return False
    for prefix in all_of("trace_id"):
        if not record.trace_id.startswith(prefix.lower()):
            return False
    if (services := all_of("service")) and record.resource.get("service.name") not in services:
        return False
    if loggers := all_of("logger"):
        plain = [name for name in loggers if not {"*", "?"} & set(name)]
        if not any(naive_glob(glob, record.logger) for glob in [*loggers, *(f"{name}.*" for name in plain)]):
            return False
    action = [] if record.action is UNSET or record.action is None else [record.action]
    metadata = [] if record.metadata is UNSET or record.metadata is None else [record.metadata]
    for attr in all_of("attr"):
        key, colon, glob = attr.partition(":")
        values = naive_values(record.attributes, key) + naive_values(record.attributes, f"audit.{key}")
        values += naive_values(record.attributes, f"audit.{key}.id") if key == "actor" else []
        values += naive_values(record.attributes, "audit.record.id") if key == "id" else []
        values += action if key == "action" else []
        values += [record.record_id] if key == "id" and record.record_id else []
        values += [found for value in metadata if isinstance(value, dict) for found in naive_values(value, key)]
        values += naive_values(record.resource, key)
        if colon and glob.strip("*") + glob[:1] != "*":
            values = [text for value in values for text in naive_texts(value) if naive_glob(glob, text)]
        if not values:
            return False
    exception = msgspec.structs.astuple(record.exception) if record.exception else ()
    for text in all_of("q"):
        fields = [record.message, record.logger, record.level, record.event_name, record.module, record.function]
        fields += [record.trace_id, record.record_id, *exception]
        service = [record.resource["service.name"]] if "service.name" in record.resource else []
        for value in naive_all((dict(record.attributes), *action, *metadata, *service), True):
            fields += [shown for shown in naive_texts(value) if shown not in ("True", "False", "None")]
        for word in re.findall(r'"[^"]*"|\S+', text):
            if not any(word.strip('"').casefold() in field.casefold() for field in fields):
                return False
    for pattern in all_of("re"):
        strings = [value for value in naive_all(dict(record.attributes), False) if isinstance(value, str)]
        if not any(re.search(pattern, text) for text in [record.message, *exception, *strings]):
            return False
    return True
