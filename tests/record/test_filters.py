from __future__ import annotations

import itertools
import re
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import BridgeError
from bridge.record import filters
from bridge.record.event import UNSET, ExceptionInfo, LogEvent
from bridge.record.filters import (
    FILTER_PARAMETERS,
    MATCH_ALL,
    MAX_ATTRIBUTE_DOTS,
    MAX_PARAMETER_CHARS,
    MAX_PATTERN_CHARS,
    MAX_TOTAL_CHARS,
    MAX_VALUES,
    MAX_WILDCARDS,
    MAX_WORDS,
    REGEX_CACHE_SIZE,
    Filter,
    FilterError,
    parse_object,
    parse_query,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def event(**fields: Any) -> LogEvent:
    given: dict[str, Any] = {
        "timestamp": 1,
        "observed_timestamp": 1,
        "severity_number": 9,
        "level": "INFO",
        "logger": "app.db",
        "message": "Order 17 paid",
    }
    return LogEvent(**given | fields)


def query(**parameters: str | list[str]) -> Filter:
    return parse_query(
        [(name, v) for name, value in parameters.items() for v in ([value] if isinstance(value, str) else value)]
    )


def refusal(parameters: list[tuple[str, str]]) -> FilterError:
    with pytest.raises(FilterError) as caught:
        parse_query(parameters)
    return caught.value


def object_refusal(value: object) -> FilterError:
    with pytest.raises(FilterError) as caught:
        parse_object(value)
    return caught.value


# -- one parameter at a time --


def test_names() -> None:
    """The exported names are those of the protocol."""
    expected = {"streams", "min_severity", "logger", "service", "q", "re", "attr", "trace_id"}
    assert expected == FILTER_PARAMETERS


@pytest.mark.parametrize(
    ("given", "streams"),
    [
        ("audit", {"audit"}),
        (" System ", {"system"}),
        ("system,audit", {"audit", "system"}),
        (["audit", "SYSTEM"], {"audit", "system"}),
    ],
)
def test_streams(given: str | list[str], streams: set[str]) -> None:
    """A stream that is not asked for is left out."""
    wanted = query(streams=given)
    assert wanted.streams == streams
    assert wanted.matches(event(is_audit=True)) is ("audit" in streams)
    assert wanted.matches(event()) is ("system" in streams)


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("NOTSET", 0),
        ("trace", 1),
        ("TRACE2", 2),
        ("DEBUG", 5),
        ("Info4", 12),
        ("WARN", 13),
        ("warning", 13),
        ("ERROR1", 17),
        ("CRITICAL", 21),
        ("fatal4", 24),
        ("13", 13),
        (" 0 ", 0),
        ("24", 24),
    ],
)
def test_min_severity(name: str, lowest: int) -> None:
    """Names of Python and OpenTelemetry in any case, and numbers, set the lowest severity number shown."""
    wanted = query(min_severity=name)
    shown = [n for n in range(25) if wanted.matches(event(severity_number=n, level=""))]
    assert shown == list(range(lowest, 25))


def test_min_severity_without_a_number() -> None:
    """A record with a level's name and no number is judged by the name."""
    wanted = query(min_severity="WARN")
    assert wanted.matches(event(severity_number=0, level="Error"))
    assert not wanted.matches(event(severity_number=0, level="INFO"))
    assert not wanted.matches(event(severity_number=0, level="NOTICE"))


@pytest.mark.parametrize(
    ("globs", "shown", "hidden"),
    [
        (["app"], ["app", "app.x", "app.x.y"], ["apple", "my.app", ""]),
        (["app.*"], ["app.x", "app.x.y", "app."], ["app", "apple"]),
        (["*.db"], ["app.db", ".db"], ["db", "app.db.pool"]),
        (["a?p"], ["app", "a.p"], ["ap", "app.x"]),
        (["App"], ["App"], ["app"]),
        (["*"], ["", "x"], []),
        (["app", "x*"], ["app.y", "x", "xy"], ["y"]),
        (["a*b*c", "[ab]"], ["abc", "a.b.c", "abbcc", "[ab]"], ["ab", "acb", "a", "abcd"]),
        (["*a??b*"], ["xaaabx", "a--b", "aaxb"], ["ab", "axb", "axxxb"]),
        (["?"], ["x", "é"], ["", "xy"]),
        (["??*"], ["ab", "abc"], ["a"]),
        (["a*a"], ["aa", "aba"], ["a"]),
        (["a*a?bb*"], ["aaxbb", "a.axbb"], ["axbbb", "abbbb"]),
        (["*a?*?b"], ["a12b"], ["a1b", "ab"]),
    ],
)
def test_logger(globs: list[str], shown: list[str], hidden: list[str]) -> None:
    """Globs fit the whole name, any of several will do, and a plain name covers the loggers below it."""
    wanted = query(logger=globs)
    assert [name for name in shown + hidden if wanted.matches(event(logger=name))] == shown


def test_service() -> None:
    """A service is its exact name, and any of several will do."""
    wanted = query(service=["orders", "shop*"])
    names = ["orders", "Orders", "shop*", "shop1", 5, None]
    assert [n for n in names if wanted.matches(event(resource={"service.name": n}))] == ["orders", "shop*"]
    assert not wanted.matches(event())


@pytest.mark.parametrize("prefix", [TRACE, TRACE.upper(), TRACE[:4], f" {TRACE[:9]} "])
def test_trace_id(prefix: str) -> None:
    """A trace id, or its beginning, is found in any case."""
    wanted = query(trace_id=prefix)
    assert wanted.matches(event(trace_id=TRACE))
    assert not wanted.matches(event(trace_id="0" * 32))
    assert not wanted.matches(event())


SEARCHED = event(
    message="Order 17 PAID",
    logger="shop.till",
    level="WARNING",
    module="till_module",
    function="pay_up",
    event_name="order.paid",
    trace_id=TRACE,
    span_id="00f067aa0ba902b7",
    record_id="0198c5b2-4711",
    is_audit=True,
    action="order_pay",
    metadata={"basket": ("apples", {"colour": "green"}), "n": (1, None)},
    attributes={
        "customer.id": "u8472",
        "latency": 12.5,
        "ok": True,
        "deep": {"down": ("here", 99)},
        "raw": b"\xff\x00",
    },
    resource={"service.name": "orders", "host.name": "box"},
    exception=ExceptionInfo("ValueError", "no change", "Traceback\n  in till.py"),
)


WORDS_OF_SEARCHED = (
    "paid till warning till_module pay_up order.paid 4bf92f 00f067 0198c5b2 order_pay basket apples colour green null "
    "customer.id u8472 latency 12.5 true deep down here 99 /wA= orders ValueError change Traceback till.py"
)


@pytest.mark.parametrize(
    "words",
    [*WORDS_OF_SEARCHED.split(), WORDS_OF_SEARCHED[:90], '"no change"', '"order 17" "in till"', '17 "" paid', "  ", ""],
)
def test_q_looks_everywhere(words: str) -> None:
    """Words and phrases are found in any field, in any case, each in a field of its own."""
    assert query(q=words).matches(SEARCHED)


@pytest.mark.parametrize(
    "words", ["box", "host.name", "paid zebra", '"17 order"', '"PAID shop.till"', "Truee", "till,"]
)
def test_q_needs_every_word(words: str) -> None:
    """One word that is nowhere, or a phrase that is nowhere in one piece, hides the record."""
    assert not query(q=words).matches(SEARCHED)


@pytest.mark.parametrize(
    ("text", "message", "matches"),
    [
        ("STRASSE", "Hauptstraße 5", True),
        ("straße", "HAUPTSTRASSE 5", True),
        ("éa", "É-A", False),
        ('size=5"', 'disk size=5" ok', True),
        ('""x"', 'say "X', True),
        ('"{"user":"x"}"', '{"user":"x"}', True),
        ('"a b" c', "c a b", True),
        ("a\tb\u3000c", "c-b-a", True),
        ("a.b", "axb", False),
        ("😀", "hi 😀", True),
    ],
)
def test_q_text(text: str, message: str, matches: bool) -> None:
    """Words are text and no pattern, compared without case; quotes inside a word are characters."""
    assert query(q=text).matches(event(message=message)) is matches


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (r"^Order \d+ PAID$", True),
        ("paid", False),
        ("(?i)paid", True),
        ("^ValueError$", True),
        ("^no ch", True),
        (r"till\.py$", True),
        ("^u8472$", True),
        ("^here$", True),
        ("12.5", False),
        ("customer", False),
        ("^shop", False),
        ("(a+)+$", False),
        (r"(\d+)+", True),
        ("", True),
    ],
)
def test_re(pattern: str, matches: bool) -> None:
    """A regular expression is searched, with case, in message, exception and strings of attributes, each by itself."""
    assert query(re=pattern).matches(SEARCHED) is matches


GRANTED = event(
    is_audit=True,
    action="role_grant",
    metadata={"role": "admin", "where": {"zone.id": "eu-1"}},
    record_id="0198c5b2",
    attributes={
        "http.route": "/api",
        "user": {"id": 17, "name.first": {"x": "Ann"}},
        "tags": ("red", "green"),
        "ratio": 5.0,
        "half": 0.5,
        "ok": True,
        "none": None,
        "empty": "",
        "nothing": (),
        "raw": b"hi",
        "audit.actor.id": "u8472",
        "audit.target.id": "user/17",
        "audit.source.id": "cli",
        "audit.outcome": "success",
        "audit.actor.type": "user",
    },
    resource={"service.name": "orders", "k8s": {"pod": "p-1"}},
)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ("http.route:/api", True),
        ("http.route:/ap?", True),
        ("http.route:/API", False),
        ("http.route:api", False),
        ("http.route", True),
        ("http", False),
        ("user.id:17", True),
        ("user.id:1*", True),
        ("user.name.first.x:Ann", True),
        ("user", True),
        ("user:*", True),
        ("user:17", False),
        ("tags:green", True),
        ("tags:gr*", True),
        ("tags:blue", False),
        ("ratio:5", True),
        ("ratio:5.0", True),
        ("half:0", False),
        ("half:0.5", True),
        ("ok:true", True),
        ("ok:True", True),
        ("ok:1", False),
        ("none:null", True),
        ("none:None", True),
        ("none", True),
        ("empty:", True),
        ("http.route:", False),
        ("nothing", True),
        ("nothing:?*", False),
        ("raw:" + b64encode(b"hi").decode(), True),
        ("action:role_*", True),
        ("action:role_revoke", False),
        ("actor:u8472", True),
        ("actor.type:user", True),
        ("target:user/*", True),
        ("source:cli", True),
        ("outcome:success", True),
        ("outcome:failure", False),
        ("id:0198c5b2", True),
        ("role:admin", True),
        ("metadata.role:admin", True),
        ("where.zone.id:eu-?", True),
        ("metadata.where.zone.id:eu-1", True),
        ("metadata", True),
        ("service.name:orders", True),
        ("k8s.pod:p-*", True),
        ("k8s.pod.x", False),
        ("missing", False),
        ("missing:*", False),
        (".", False),
        ("user.", False),
    ],
)
def test_attr(wanted: str, matches: bool) -> None:
    """An attribute is looked for by key, short name and path, in all places, and its value compared as text."""
    assert query(attr=wanted).matches(GRANTED) is matches


def test_attr_without_action_and_metadata() -> None:
    """An audit record without an action has none to be present, and metadata may be a text."""
    assert not query(attr="action").matches(event(action=None, metadata=None))
    assert not query(attr="metadata").matches(event())
    assert query(attr="metadata:x*").matches(event(metadata="xyz"))


def test_all_attr_must_hold() -> None:
    """Several attributes must all match."""
    assert query(attr=["role:admin", "tags:red"]).matches(GRANTED)
    assert not query(attr=["role:admin", "tags:blue"]).matches(GRANTED)


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
        (
            "streams",
            "system, logs",
            7,
            "streams='system, logs' at position 7: streams are system and audit; write streams=audit for one of them",
        ),
        ("streams", ",", 0, "*"),
        (
            "min_severity",
            "30",
            None,
            "min_severity='30': severities are TRACE, DEBUG, INFO, WARN, ERROR, FATAL (TRACE2 … FATAL4) or 0 to 24; "
            "Python's level 30 is 13 here",
        ),
        ("min_severity", "LOUD", None, "*or 0 to 24; use one like WARN, ERROR or 13"),
        ("min_severity", "-1", None, "*"),
        ("min_severity", "9" * 500, None, "*"),
        ("min_severity", "٣", None, "*"),
        ("trace_id", " 4bg9", 3, "trace_id=' 4bg9' at position 3: *; take out 'g'"),
        ("trace_id", "abc", None, "*: a trace id is 32 hexadecimal digits, or the first 4 or more of them; *"),
        ("trace_id", "a" * 33, 32, "*; shorten it: it has 33"),
        ("attr", "user=17", 4, "*: a colon separates key and value; write attr=key:value"),
        ("attr", ":17", 0, "*: the attribute's key is missing; write attr=key:value"),
        ("attr", "a" + ".a" * (MAX_ATTRIBUTE_DOTS + 1), None, "*: a key may have 16 dots; shorten it"),
        ("q", 'a "b c', 2, """q='a "b c' at position 2: the quote is not closed; close it with " or leave it out"""),
        ("q", "a " * (MAX_WORDS + 1), 32, "*: more than 16 words; leave some out, or quote those that belong together"),
        ("logger", "", None, "logger='': an empty value asks for nothing; leave logger out to get everything"),
        ("service", "", None, "*; leave service out to get everything"),
        ("logger", "*a" * (MAX_WILDCARDS + 1), None, "*: more than 16 wildcards; leave some out"),
        ("attr", "k:" + "?*a" * 9, None, "*: more than 16 wildcards; leave some out"),
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
    """What means nothing is refused in one line: the parameter, the value, the place, the rule and the remedy."""
    error = refusal([(name, value)])
    assert (error.parameter, error.value, error.position) == (name, value, position)
    assert re.fullmatch(re.escape(text).replace(r"\*", ".*"), str(error)), str(error)
    assert len(str(error)) < 300
    assert str(error).encode().decode().isprintable()
    assert isinstance(error, BridgeError)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("pattern", "position", "text"),
    [
        ("(?=lookahead)", 0, "invalid perl operator '(?='; RE2 has no look-around: match the text itself, *q"),
        ("foo(?!x)", 3, "invalid perl operator '(?!'; RE2 has no look-around*"),
        (r"\(?<=x(?<=y)", 6, "invalid perl operator '(?<='; RE2 has no look-around*"),
        (r"(a)\1", 3, r"invalid escape sequence '\\1'; RE2 has no back-references: write the text out"),
        ("(?P=n)", 0, "*; name a group with (?P<name>…); RE2 can't refer back to it"),
        ("a++", 1, "bad repetition operator '++'; RE2 never goes back, *: use (?:…)"),
        ("(?>a)", 0, "invalid perl operator '(?>'; RE2 never goes back, *: use (?:…)"),
        ("(?#note)", 0, "*; RE2 knows (?:…), *"),
        (r"end\Z", 3, r"*; for the end of the text write $ or \z"),
        ("x{2000}", 1, "invalid repetition size '{2000}'; repeat at most 1000 times, *"),
        ("a[bc", 1, "missing ]; correct it, or put a backslash before a character that is meant literally"),
        ("a(bc", None, "missing ); correct it, or put a backslash before a character that is meant literally"),
        ("é)", None, "unexpected ); correct it*"),
        ("abc\\", 3, "*; correct it*"),
        ("*a", 0, "no argument for repetition operator '*'; correct it*"),
    ],
)
def test_regex_refused(pattern: str, position: int | None, text: str) -> None:
    """A pattern that RE2 does not know is refused with the place and what to write instead."""
    for _ in range(2):  # the second one comes from the cache
        error = refusal([("re", pattern)])
        where = "" if error.position is None else f" at position {error.position}"
        start = f"re={pattern!r}{where}: not a regular expression for RE2: "
        assert str(error).startswith(start)
        rest = str(error)[len(start) :]
        assert re.fullmatch(re.escape(text).replace(r"\*", ".*"), rest), rest
        if position is not None:
            assert error.position == position


@pytest.mark.parametrize("pattern", [r"a\pL{3,20}", r"\pL{1000}", "[^a]{900}"])
def test_regex_too_large(pattern: str) -> None:
    """A pattern that compiles to too much is refused."""
    error = refusal([("re", pattern)])
    assert error.rule.endswith("allowed")
    assert error.remedy.startswith("use fewer or smaller repetitions {n}")


def test_regex_errors_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """RE2 does not write to the process's standard error."""
    refusal([("re", "(?=never printed)")])
    refusal([("re", r"\pN\pL{1000}")])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("module", [None, object()])
def test_regex_without_re2(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without google-re2, or with another package of its module's name, the error says what to install."""
    filters._compile.cache_clear()
    monkeypatch.setitem(sys.modules, "re2", module)
    error = refusal([("re", "a")])
    assert str(error) == (
        "re='a': regular expressions need the package google-re2, which the server lacks; "
        "run: pip install 'otel-audit-bridge[server]'"
    )
    monkeypatch.undo()
    assert query(re="a").matches(event(message="a"))


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
    assert re.fullmatch(re.escape(text).replace(r"\*", ".*"), shown), shown


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


def test_pattern_length() -> None:
    """A pattern has a smaller limit than other values."""
    assert str(refusal([("re", "x" * (MAX_PATTERN_CHARS + 1))])).endswith(
        "at position 512: 513 characters, where 512 are allowed; shorten it, or look for words with q"
    )


def test_long_value_is_shown_where_it_is_wrong() -> None:
    """Of a long value the error shows what is around the place."""
    error = refusal([("q", "x" * 500 + "\0" + "y" * 500)])
    assert f"…'{'x' * 30}\\x00{'y' * 29}'… at position 500" in str(error)


# -- cost --


def test_same_patterns_are_compiled_once() -> None:
    """Clients that subscribe again and again with the same pattern, good or bad, share its compilation."""
    filters._compile.cache_clear()
    for _ in range(50):
        query(re="once[0-9]")
        refusal([("re", "(?=once)")])
    assert filters._compile.cache_info()[:2] == (98, 2)
    for i in range(2 * REGEX_CACHE_SIZE):
        query(re=f"a{i}")
    assert filters._compile.cache_info().currsize == REGEX_CACHE_SIZE


LONG = 200_000


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("re", "(a+)+$", "a" * LONG + "b"),
        ("re", "(a|aa)*c", "a" * LONG + "b"),
        ("re", "(.*)*(.*)*x", "a" * LONG),
        ("re", "(a?){200}a{200}b", "a" * LONG),
        ("re", "a[ab]{200}c", "abaab" * (LONG // 5)),
        ("attr", "k:" + "*a" * (MAX_WILDCARDS - 1) + "*b", "a" * LONG),
        ("attr", "k:*" + "a?" * 14 + "b*", "a" * LONG),
        ("attr", "k:*" + "a?a*" * 6 + "b?*", "a" * LONG),
        ("attr", "k:*" + "a" * 1000 + "b*", "a" * LONG),
        ("q", "a" * 1000 + "b", "a" * LONG),
        ("q", '"' + "ab" * 300 + 'b"', "ab" * (LONG // 2)),
        ("q", " ".join("a" * n + "ab" for n in range(1, 17)), "ß" * LONG),
    ],
)
def test_no_text_explodes(name: str, value: str, text: str) -> None:
    """Whatever the pattern, a long text takes time in proportion (seconds are for slow machines, not for blow-ups)."""
    wanted = parse_query([(name, value)])
    began = time.perf_counter()
    wanted.matches(event(message=text, attributes={"k": text}))
    assert time.perf_counter() - began < 5


def test_large_patterns_see_less_text() -> None:
    """A regular expression has a budget for one record: the larger it is, the less of the texts it sees."""
    far = event(message="-" * LONG + "x", attributes={"k": "x"})
    assert query(re="x").matches(far)
    assert not query(re="a{700}|x").matches(far)
    assert query(re="a{700}|x").matches(event(message="-" * 10_000 + "x"))
    assert query(re="a{700}|x").matches(event(message="-" * 10_000, attributes={"k": "x"}))
    many = {str(i): "-" * 10_000 for i in range(20)}
    assert not query(re="a{700}|x").matches(event(attributes=many | {"k": "x"}))
    assert query(re="a{700}|x").matches(event(attributes={"k": "x"} | many))


# -- against a naive reference --

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


@untimed
@given(queries, st.lists(events, min_size=1, max_size=5))
@example([("attr", "a.a.b")], [event(attributes={"a.a": {"b": 1}})])
@example([("logger", "*a?b*")], [event(logger="aa.b")])
def test_same_as_naive(given: list[tuple[str, str]], records: list[LogEvent]) -> None:
    """A filter selects what a plain, slow reading of the parameters selects."""
    wanted = parse_query(given)
    assert [wanted.matches(record) for record in records] == [naive(given, record) for record in records]


def test_short_globs_are_exact() -> None:
    """Every short glob fits exactly the short texts that the same pattern with backtracking fits."""
    texts = ["".join(letters) for n in range(6) for letters in itertools.product("ab", repeat=n)]
    for glob in ("".join(parts) for n in range(1, 6) for parts in itertools.product("ab*?", repeat=n)):
        wanted = query(attr=f"k:{glob}")
        found = [text for text in texts if wanted.matches(event(attributes={"k": text}))]
        assert found == [text for text in texts if naive_glob(glob, text)], glob


@given(st.text("ab*?", min_size=1, max_size=14), st.text("ab", max_size=14))
def test_globs_are_exact(glob: str, text: str) -> None:
    """A longer glob does so as well."""
    wanted = query(attr=f"k:{glob}")
    assert wanted.matches(event(attributes={"k": text})) is naive_glob(glob, text)


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
