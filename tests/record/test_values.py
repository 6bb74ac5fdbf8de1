from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import sys
import types
import uuid
import warnings
from collections import Counter, OrderedDict, UserDict, UserString, deque, namedtuple
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.values import (
    DEFAULT,
    SCALARS,
    Limits,
    freeze,
    qualified_name,
    safe_repr,
    safe_text,
    size_of,
)


class Boom(BaseException):
    pass


class Hostile:
    """Raises from everything that may be asked of it."""

    def _boom(self, *args: object) -> NoReturn:
        raise Boom

    __repr__ = __str__ = __iter__ = __len__ = __hash__ = __eq__ = __getitem__ = __bool__ = _boom
    items = keys = isoformat = _boom

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise Boom


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Person:
    name: str
    password: str = dataclasses.field(repr=False, default="x")


class Struct(msgspec.Struct):
    a: int
    b: list[int]


Point = namedtuple("Point", "x y")


class Str(str):
    __slots__ = ()


class Int(int):
    pass


class Float(float):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Str("a"), "a"),
        (Int(5), 5),
        (Float(1.5), 1.5),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Bits.A | Bits.B, 3),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05+00:00"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(minutes=1, milliseconds=500), 60.5),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (fractions.Fraction(1, 3), "1/3"),
        (ipaddress.ip_address("::1"), "::1"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aa"), {"a": 2}),
        (UserDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        ({b"host": 1}, {"host": 1}),
        ({1: "a", "1": "b", None: "c"}, {"1": "a", "1#2": "b", "None": "c"}),
        ([1, [2]], (1, (2,))),
        (deque([1]), (1,)),
        (range(3), (0, 1, 2)),
        ({3, 1, 2}, (1, 2, 3)),
        (frozenset({"b", "a"}), ("a", "b")),
        ({"a": 1}.values(), (1,)),
        (Point(1, [2]), {"x": 1, "y": (2,)}),
        (Person("bob"), {"name": "bob", "password": "<repr=False>"}),
        (Struct(1, [2]), {"a": 1, "b": (2,)}),
        (UserString("a"), "a"),
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (dict, "dict"),
        (pathlib.PurePath, qualified_name(pathlib.PurePath)),
        (safe_text, "bridge.record.values.safe_text"),
        (sys, "sys"),
        (1j, "1j"),
        ("\udc80", "\\udc80"),
        ({"\udc80": "é\x00"}, {"\\udc80": "é\x00"}),
    ],
)
def test_each_kind_of_value(value: object, expected: object) -> None:
    """Every kind of value has one documented form."""
    actual = freeze(value)
    assert actual == expected
    assert type(actual) is type(expected)


def test_nan_and_infinity_stay() -> None:
    """Special floats are kept."""
    assert repr(freeze([float("nan"), float("inf")])) == "(nan, inf)"


@pytest.mark.parametrize("number", [10**5000, -(10**5000), 2**1_000_000], ids=["large", "negative", "huge"])
def test_huge_ints_become_bounded_text(number: int) -> None:
    """An int with more digits than Python converts is shown in hexadecimal and cut."""
    text = freeze(number)
    assert isinstance(text, str)
    assert "0x" in text[:3]
    assert len(text) < 5000


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"k": x}, lambda x: {"a": [1, x]}])
def test_hostile_objects_cost_only_themselves(wrap: Any) -> None:
    """An object that raises from everything becomes a note."""
    assert "unprintable" in repr(freeze(wrap(Hostile())))


def test_hostile_keys_and_metaclasses() -> None:
    """A key without text and a class that cannot be hashed do no harm."""

    class Meta(type):
        def __hash__(cls) -> int:
            raise Boom

    class Odd(metaclass=Meta):
        def __repr__(self) -> str:
            return "odd"

    class Key:
        def __repr__(self) -> str:
            raise Boom

    assert freeze({Key(): 1, "ok": 2})["ok"] == 2  # type: ignore[call-overload, index]
    assert isinstance(freeze([Odd()]), tuple)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_requests_to_stop_pass_through(error: type[BaseException]) -> None:
    """Ctrl-C during a repr is not swallowed."""

    class Stop:
        def __repr__(self) -> str:
            raise error

    with pytest.raises(error):
        freeze([Stop()])


def test_iterators_are_not_consumed() -> None:
    """A generator still yields everything after it was frozen."""
    numbers = (n for n in range(3))
    freeze({"n": numbers})
    assert list(numbers) == [0, 1, 2]


def test_cycles_are_marked_and_shared_values_are_not() -> None:
    """Only a value inside itself is a cycle."""
    loop: list[object] = [1]
    loop.append({"self": loop})
    shared = [1]
    assert freeze(loop) == (1, {"self": "<cycle>"})
    assert freeze([shared, shared]) == ((1,), (1,))


def test_cuts_are_said() -> None:
    """Depth, width and size limits leave a mark where something is missing."""
    limits = Limits(depth=2, items=2, nodes=100, repr_chars=4)
    assert freeze([1, 2, 3, 4], limits=limits) == (1, 2, "…(+2 more)")
    assert freeze({"a": 1, "b": 2, "…": 3}, limits=limits) == {"a": 1, "b": 2, "…": "(+1 more)"}
    assert freeze([[[1]]], limits=limits) == (("<depth limit>",),)
    assert freeze(1 + 1000j, limits=limits) == "(1+1…(+5 more)"
    assert freeze([[1, 2], [3, 4]], limits=Limits(nodes=3)) == ((1, "…(+1 more)"), ("…(+2 more)",))
    assert freeze(range(10**30), limits=limits) == (0, 1, f"…(+{10**30 - 2} more)")


def test_billion_laughs_end() -> None:
    """Nested sharing is bounded by the number of nodes."""
    value: object = "ha"
    for _ in range(50):
        value = [value] * 50
    assert size_of(freeze(value)) < 3_000_000


def test_endless_mapping_ends() -> None:
    """A mapping with endless items is cut."""

    class Endless(UserDict[int, int]):
        def items(self) -> Any:
            def forever() -> Iterator[tuple[int, int]]:
                while True:
                    yield 1, 1

            return forever()

    frozen = freeze(Endless({1: 1}))
    assert isinstance(frozen, dict)
    assert len(frozen) <= DEFAULT.items + 1


def test_works_near_the_recursion_limit() -> None:
    """With no stack left, the result is a mark and not an exception."""

    def dive() -> None:
        freeze([{"a": [Person("x")]}])
        dive()

    with pytest.raises(RecursionError) as caught:
        dive()
    assert caught.traceback[-1].name == "dive" or "dive" in str(caught.traceback[-2])


def test_bad_limits_are_refused() -> None:
    """A limit below one is a mistake in the configuration."""
    with pytest.raises(ValueError, match=r"Limits\.depth .* at least 1"):
        Limits(depth=0)


def test_safe_text_returns_valid_text_itself() -> None:
    """Text without lone surrogates is not copied."""
    text = "é" * 10
    assert safe_text(text) is text


def test_safe_repr_is_cut() -> None:
    """A long repr is cut and says so."""
    assert safe_repr("x" * 10, 5) == "'xxxx…(+7 more)"


def test_scalars_are_exact() -> None:
    """A subclass of str may carry changeable state, so it is no scalar."""
    assert str in SCALARS
    assert Str not in SCALARS


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
    | st.builds(Hostile)
    | st.builds(object)
    | st.datetimes()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.complex_numbers()
)
keys = st.text() | st.integers() | st.none() | st.binary() | st.tuples(st.integers())
anything = st.recursive(
    scalars,
    lambda x: (
        st.lists(x)
        | st.lists(x).map(tuple)
        | st.lists(x).map(deque)
        | st.dictionaries(keys, x)
        | st.builds(Person, x)
        | st.builds(Point, x, x)
        | st.builds(ValueError, x)
    ),
    max_leaves=20,
)


@given(anything)
def test_never_raises_and_always_encodes(value: object) -> None:
    """Any value freezes, without a warning, to what JSON and UTF-8 can carry."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = freeze(value)
    msgspec.json.encode(frozen)
    repr(frozen).encode()
    assert size_of(frozen) > 0


plain = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
mutable = st.recursive(plain, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20)


def spoil(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            spoil(item)
        value.append("late")
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value["late"] = "late"


@given(mutable)
def test_later_changes_do_not_reach_the_snapshot(value: object) -> None:
    """What is frozen stays as it was when the original changes at any depth."""
    frozen = freeze(value)
    before = repr(frozen)
    spoil(value)
    assert repr(frozen) == before
