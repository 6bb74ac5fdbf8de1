from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.record.attribute_paths import MAX_ATTRIBUTE_DOTS
from bridge.record.conditions import FilterError
from bridge.record.event import LogEvent
from bridge.record.filters import (
    FILTER_PARAMETERS,
    MATCH_ALL,
    MAX_PARAMETER_CHARS,
    MAX_TOTAL_CHARS,
    MAX_VALUES,
    parse_object,
    parse_query,
)
from bridge.record.globs import MAX_WILDCARDS
from bridge.record.patterns import MAX_PATTERN_CHARS
from bridge.record.words import MAX_WORDS
from tests.record.naive_filters import events, naive, queries, untimed
from tests.record.queries import TRACE, assert_refused, event, fits, query, refusal


def object_refusal(value: object) -> FilterError:
    with pytest.raises(FilterError) as caught:
        parse_object(value)
    return caught.value


def test_names() -> None:
    """The exported names are those of the protocol."""
    expected = {"streams", "min_severity", "logger", "service", "q", "re", "attr", "trace_id"}
    assert expected == FILTER_PARAMETERS


# -- keys and equality --


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"streams": "audit,system"}, {}),
        ({"streams": "AUDIT"}, {"streams": ["audit", " audit"]}),
        ({"min_severity": "warn"}, {"min_severity": "13"}),
        ({"min_severity": "NOTSET"}, {}),
        ({"logger": ["b", "a", "b"]}, {"logger": ["a", "b"]}),
        ({"logger": "a**?*b"}, {"logger": "a?*b"}),
        ({"logger": ["a", "*"]}, {}),
        ({"q": 'PAID  "In One" '}, {"q": '"in one" paid paid'}),
        ({"q": '"one"'}, {"q": "ONE"}),
        ({"q": ' "" '}, {}),
        ({"re": ""}, {}),
        ({"trace_id": "ABCD"}, {"trace_id": "abcd"}),
        ({"attr": ["b:1", "a"]}, {"attr": ["a", "b:1", "a:*"]}),
        ({"attr": "a:b:**"}, {"attr": "a:b:*"}),
    ],
)
def test_equal_filters(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Filters that ask for the same have one key, are equal and hash alike."""
    first, second = query(**one), query(**other)
    assert first.key == second.key
    assert first == second
    assert hash(first) == hash(second)
    assert first.is_everything is (first == MATCH_ALL)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"q": "a b"}, {"q": '"a b"'}),
        ({"re": "A"}, {"re": "a"}),
        ({"logger": "A"}, {"logger": "a"}),
        ({"logger": "a"}, {"service": "a"}),
        ({"attr": "a:"}, {"attr": "a"}),
        ({"attr": "a:b&attr=c"}, {"attr": ["a:b", "c"]}),
        ({"service": "a"}, {"service": ["a", "b"]}),
    ],
)
def test_unequal_filters(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Filters that ask for different things are not equal."""
    assert query(**one).key != query(**other).key
    assert query(**one) != query(**other)


def test_nothing_asked_for() -> None:
    """A filter without parameters lets everything through."""
    assert parse_query([]) is MATCH_ALL
    assert parse_object({}) == MATCH_ALL
    assert parse_object(dict.fromkeys(FILTER_PARAMETERS)) == MATCH_ALL
    assert MATCH_ALL.key == ""
    assert MATCH_ALL.is_everything
    assert MATCH_ALL.streams == {"audit", "system"}
    assert MATCH_ALL.matches(event())
    assert not query(q="x").is_everything


def test_is_no_other_thing() -> None:
    """A filter equals filters only, says what it is, and can't be changed."""
    wanted = query(q="x", streams="audit")
    assert wanted != "q=x"
    assert repr(wanted) == "<Filter streams=audit&q=x>"
    assert repr(MATCH_ALL) == "<Filter everything>"
    with pytest.raises(AttributeError, match="cannot be changed"):
        wanted.key = ""
    with pytest.raises(AttributeError, match="cannot be changed"):
        del wanted.key


def test_object_is_query() -> None:
    """The object of a subscribe message means what the query with the same names means."""
    of_object = parse_object(
        {
            "streams": ["system", "audit"],
            "min_severity": 13,
            "logger": ["b", "a.*"],
            "service": "orders",
            "q": "x y",
            "re": None,
            "attr": ["k:v"],
            "trace_id": TRACE,
        }
    )
    assert of_object == query(
        min_severity="WARN", logger=["a.*", "b"], service="orders", q="y x", attr="k:v", trace_id=TRACE
    )


# -- refusals --


@pytest.mark.parametrize(
    ("name", "value", "position", "text"),
    [
        (
            "loger",
            "app",
            None,
            "loger='app': no filter has this name; did you mean logger?",
        ),
        ("Logger", "app", None, "Logger='app': no filter has this name; did you mean logger?"),
        ("level", "WARN", None, "level='WARN': no filter has this name; did you mean min_severity?"),
        (
            "history",
            "9",
            None,
            "history='9': no filter has this name; "
            "filters are attr, logger, min_severity, q, re, service, streams, trace_id",
        ),
        ("a\nb", "x", None, r"a\nb='x': no filter has this name; *"),
        ("logger", "", None, "logger='': an empty value asks for nothing; leave logger out to get everything"),
        ("service", "", None, "*; leave service out to get everything"),
        ("q", "a\0", 1, r"q='a\x00' at position 1: a NUL character can't be looked for as text; *re=\x00"),
        ("q", "é\ud800", 1, r"q='é\ud800' at position 1: half of a surrogate pair *have the text \ud800 in its place*"),
        (
            "q",
            "x" * (MAX_PARAMETER_CHARS + 1),
            MAX_PARAMETER_CHARS,
            "*: 1025 characters, where 1024 are allowed; shorten it",
        ),
    ],
)
def test_refused(name: str, value: str, position: int | None, text: str) -> None:
    """Unknown names, empty values and characters that no text has are refused."""
    assert_refused(name, value, position, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], 'filter=[]: a filter is an object, not a list; write it as {"logger": "app.*"}, {} for all'),
        (None, "filter=None: a filter is an object, not null; *"),
        ("q=x", "filter='q=x': a filter is an object, not a string; *"),
        ({"logger": 5}, "logger=5: logger takes text, not a number; put it in quotes"),
        ({"logger": ["a", 7.5]}, "logger=7.5: logger takes text, not a number; put it in quotes"),
        ({"attr": {"a": "b"}}, "attr={'a': 'b'}: attr takes text, not an object; give a string"),
        ({"attr": [["a"]]}, "attr=['a']: attr takes text, not a list; give a string"),
        ({"attr": [None]}, "attr=None: attr takes text, not null; give a string"),
        ({"q": ["a"]}, "q=['a']: q takes one value, not a list; give a string"),
        ({"q": True}, "q=True: q takes text, not a truth value; put it in quotes"),
        ({"service": []}, "service=[]: an empty list asks for nothing; leave service out to get everything"),
        ({"min_severity": 99}, "min_severity=99: severities are *"),
        ({"min_severity": 10**5000}, "min_severity=<unprintable int: ValueError>: severities are *"),
        ({"min_severity": 40}, "*; Python's level 40 is 17 here"),
        ({"min_severity": 13.0}, 'min_severity=13.0: *a name or a whole number, not a number; write "WARN" or 13'),
        ({"min_severity": False}, "min_severity=False: *, not a truth value; *"),
        ({"logger": ["a"] * 33}, "logger=*: logger may have 32 values; use a wildcard, or leave some out"),
        ({"lgger": "a"}, "lgger='a': no filter has this name; did you mean logger?"),
        ({3: "a"}, "3='a': no filter has this name; *"),
        ({"q": "\udfff"}, "q='\\udfff' at position 0: *"),
        (object, "filter=<class 'object'>: a filter is an object, not type; *"),
    ],
)
def test_object_refused(value: object, text: str) -> None:
    """A subscribe filter of the wrong shape is refused, and numbers are not taken for text."""
    shown = str(object_refusal(value))
    assert fits(text, shown), shown


def test_twice() -> None:
    """What can have one value only is refused the second time."""
    assert str(refusal([("q", "a"), ("q", "b")])) == "q='b': q can be given once only; leave one out"


@pytest.mark.parametrize(
    ("allowed", "more"),
    [
        ([("logger", f"a{i}") for i in range(MAX_VALUES)], ("logger", "b")),
        ([("service", str(i) + "x" * 1000) for i in range(8)], ("service", "x" * (MAX_TOTAL_CHARS - 8 * 1000))),
    ],
)
def test_limits_of_all(allowed: list[tuple[str, str]], more: tuple[str, str]) -> None:
    """As much as the limits say is allowed, and no more."""
    parse_query(allowed)
    assert refusal([*allowed, more]).parameter == more[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("q", " ".join("abcdefghijklmnop")[: 2 * MAX_WORDS - 1]),
        ("q", "x" * MAX_PARAMETER_CHARS),
        ("logger", "*a" * MAX_WILDCARDS),
        ("logger", "*" * MAX_PARAMETER_CHARS),
        ("re", "x" * MAX_PATTERN_CHARS),
        ("re", r"\pL+\s\pN+"),
        ("attr", "a" + ".a" * MAX_ATTRIBUTE_DOTS),
        ("service", "\u2028\x01"),
    ],
)
def test_limits_of_one(name: str, value: str) -> None:
    """A value just within a limit is taken."""
    assert parse_query([(name, value)]).matches(event()) in (True, False)


# -- against a naive reference --


@untimed
@given(queries, st.lists(events, min_size=1, max_size=5))
@example([("attr", "a.a.b")], [event(attributes={"a.a": {"b": 1}})])
@example([("logger", "*a?b*")], [event(logger="aa.b")])
def test_same_as_naive(given: list[tuple[str, str]], records: list[LogEvent]) -> None:
    """A filter selects what a plain, slow reading of the parameters selects."""
    wanted = parse_query(given)
    assert [wanted.matches(record) for record in records] == [naive(given, record) for record in records]


@untimed
@given(queries.flatmap(lambda given: st.tuples(st.just(given), st.permutations(given))))
def test_order_does_not_matter(pair: tuple[list[tuple[str, str]], list[tuple[str, str]]]) -> None:
    """The same parameters in another order make an equal filter."""
    one, other = parse_query(pair[0]), parse_query(pair[1])
    assert one.key == other.key
    assert one == other


@untimed
@given(queries | st.tuples(st.just("q"), st.text(st.characters(exclude_categories=["Cs"]))).map(lambda pair: [pair]))
def test_key_is_a_query(given: list[tuple[str, str]]) -> None:
    """A key, read as a query, gives the same filter."""
    try:
        wanted = parse_query(given)
    except FilterError:
        return
    again = parse_query(parse_qsl(wanted.key, keep_blank_values=True))
    assert again.key == wanted.key
    assert again.streams == wanted.streams
    assert again.is_everything is wanted.is_everything


@untimed
@given(queries)
def test_query_as_object(given: list[tuple[str, str]]) -> None:
    """The same filter comes from a query and from an object with its names."""
    of_object: dict[str, Any] = {}
    for name, value in given:
        if name in ("streams", "logger", "service", "attr"):
            of_object.setdefault(name, []).append(value)
        else:
            of_object[name] = value
    assert parse_object(of_object) == parse_query(given)


# -- whatever comes --


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(FILTER_PARAMETERS)), inner),
    max_leaves=8,
)


@untimed
@given(json_values, st.lists(events, max_size=2))
def test_any_object(value: object, records: list[LogEvent]) -> None:
    """Whatever is in a subscribe message, it is a filter or a FilterError with one printable line."""
    try:
        wanted = parse_object(value)
    except FilterError as error:
        text = str(error)
        assert text.encode().decode().isprintable()
        assert len(text) < 400
    else:
        for record in records:
            wanted.matches(record)


@untimed
@given(
    st.lists(st.tuples(st.sampled_from(sorted(FILTER_PARAMETERS)) | st.text(), st.text(st.characters())), max_size=3)
)
def test_any_query(given: list[tuple[str, str]]) -> None:
    """Whatever is in a query, it is a filter or a FilterError with one printable line."""
    try:
        parse_query(given)
    except FilterError as error:
        text = str(error)
        assert text.encode().decode().isprintable()


class Hostile:
    """Raises from what a filter may ask of it."""

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")


@pytest.mark.parametrize(
    "value", [Hostile(), (10**5000,), "\udc80", {"\udc80": ("\udc80",)}, {1: 2}, [1], {"a": Hostile()}]
)
@pytest.mark.parametrize(
    "given", [{"q": "zz"}, {"re": "zz"}, {"attr": "a:zz"}, {"attr": "a.a:zz"}, {"service": "zz"}, {"attr": "action:zz"}]
)
def test_never_raises(given: dict[str, str], value: Any) -> None:
    """A record that holds what no record should hold is judged without an exception."""
    record = event(
        message="\ud800" if isinstance(value, str) else "x",
        attributes={"a": value},
        resource={"service.name": value},
        action=value,
        metadata=value,
    )
    assert query(**given).matches(record) in (True, False)


@pytest.mark.parametrize("given", [{"q": "zz"}, {"re": "zz"}, {"logger": "zz"}, {"min_severity": "WARN"}])
def test_what_cannot_be_judged_is_shown(given: dict[str, str]) -> None:
    """A record that a filter can't make sense of is let through."""
    wrong: Any = None
    record = event(message=wrong, logger=wrong, severity_number=wrong)
    assert query(**given).matches(record)
