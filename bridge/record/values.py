"""Turning any Python value into an OpenTelemetry ``AnyValue`` that nobody can change afterwards.

Pure: no I/O, no clock, no logging, no threads, no OpenTelemetry.  The one piece of module state is a bounded
memo from type to conversion, which only saves time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import numbers
import operator
import pathlib
import sys
import types
import uuid
from collections import UserString, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, TypeAlias, cast

AnyValue: TypeAlias = "bool | int | float | str | bytes | tuple[AnyValue, ...] | dict[str, AnyValue] | None"
"""OpenTelemetry's AnyValue.  The dicts are frozen by convention: whoever holds one does not write to it."""

SCALARS: frozenset[type] = frozenset({str, int, float, bool, type(None), bytes})
"""Exact types that cannot change, so `freeze` may be put off to another thread.

It may not be left out: a str can hold lone surrogates and an int can exceed 64 bits.
"""

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

CYCLE = "<cycle>"
DEPTH_LIMIT = "<depth limit>"
UNREADABLE = "<unreadable>"
HIDDEN = "<repr=False>"
MORE_KEY = "…"

# Decimal conversion is quadratic and by default refused beyond 4,300 digits; hexadecimal is neither.
_DECIMAL_BITS = 13_000
_MAX_MEMO = 1_024


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How much of a value `freeze` looks at; what lies beyond is cut, and the result says so.

    depth: containers within containers.  items: per container.  nodes: elements of all containers together.
    repr_chars: text made by a `repr`, `str` or number conversion (a str that was given is never cut).
    """

    depth: int = 8
    items: int = 1_000
    nodes: int = 10_000
    repr_chars: int = 4_096

    def __post_init__(self) -> None:
        for name in ("depth", "items", "nodes", "repr_chars"):
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise ValueError(f"Limits.{name} must be a whole number of at least 1, not {number!r}")


DEFAULT = Limits()


class _State:
    """What one `freeze` call has left, and the containers it is inside of (by identity)."""

    __slots__ = ("inside", "left", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.nodes
        self.inside: set[int] = set()


_Handler: TypeAlias = Callable[[Any, _State, int], AnyValue]


def freeze(value: object, *, limits: Limits = DEFAULT) -> AnyValue:
    """Return a deep snapshot of `value` as an AnyValue; later changes to `value` do not reach it.

    Never raises (except KeyboardInterrupt and SystemExit), issues no warning of its own, consumes no iterator
    or generator, and does bounded work of its own; a method of the value's own class (`__repr__`, `items`,
    `__iter__` of a registered Sequence) is called at most once per visit and is trusted only to return.
    Every str in the result encodes to UTF-8 and every int fits in a signed 64-bit field.

    - str, bool, float (nan and inf too), bytes, int: kept; subclasses become exactly these; an int beyond 64
      bits becomes its decimal text, beyond about 3,900 digits hexadecimal text.
    - Enum: its value.  numbers.Integral and numbers.Real (numpy scalars): int and float.
    - datetime, date, time: ISO 8601.  timedelta: seconds as a float, so that a backend can compare it.
    - UUID, Decimal, Fraction, ipaddress, Path, UserString: text.  bytearray, memoryview: bytes.
    - Mapping, named tuple, dataclass, msgspec.Struct: dict (`field(repr=False)` gives "<repr=False>").
    - Sequence (list, tuple, deque, range ...), set, dict view: tuple; a set's is sorted where it can be.
    - exception: "qualified.Type: message".  class, function, module: its qualified name.
    - anything else: its `repr`, bounded.

    Cuts show as a last element "…(+N more)" or a last entry "…": "(+N more)", "<cycle>" and "<depth limit>".
    Keys of equal text all survive: the later ones are numbered "key#2", "key#3".
    """
    if type(value) is str:
        return value if value.isascii() else safe_text(value)
    if value is None or type(value) is bool or type(value) is float or type(value) is bytes:
        return value
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return value
    try:
        flat = _flat(value, limits.items if limits.items < limits.nodes else limits.nodes)
        return _freeze(value, _State(limits), 1) if flat is None else flat
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # Only a constant may follow: near the recursion limit any further call could raise again.
        return UNREADABLE


def safe_text(s: str) -> str:
    r"""Return `s` as an exact str that encodes to UTF-8: a lone surrogate becomes the text ``\udc80``.

    A valid exact str is returned as the same object.
    """
    if type(s) is not str:
        s = str.__str__(s)
    if s.isascii():
        return s
    try:
        s.encode()
    except UnicodeEncodeError:
        return s.encode("utf-8", "backslashreplace").decode()
    return s


def safe_repr(obj: object, max_chars: int = DEFAULT.repr_chars) -> str:
    """Return `repr(obj)`, UTF-8 encodable and cut to `max_chars` plus a "…(+N more)" mark.

    Never raises (except KeyboardInterrupt and SystemExit): an object that cannot say what it is becomes
    "<unprintable module.Type: ErrorType>".
    """
    return _guarded(repr, obj, max_chars)


def as_text(value: AnyValue) -> str:
    """A frozen value where a text belongs: ``""`` for None, any other than a text as Python writes it."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def qualified_name(cls: object) -> str:
    """Return "module.QualName" of a class or function, without a module builtins; never raises."""
    try:
        named = cast(Any, cls)
        name = named.__qualname__
        module = named.__module__
        if type(name) is not str:
            return "<unnamed>"
        if type(module) is not str or module == "builtins":
            return safe_text(name)
        return safe_text(f"{module}.{name}")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "<unnamed>"


def size_of(value: AnyValue) -> int:
    """Return roughly how many bytes of memory a frozen value holds; what is shared counts each time."""
    kind = type(value)
    if kind is str or kind is bytes:
        return sys.getsizeof(value)
    sizeof = sys.getsizeof
    total = 0
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is str or kind is bytes:
            total += sizeof(item)
        elif kind is dict:
            total += 64 + 48 * len(item)
            todo.extend(item)
            todo.extend(item.values())
        elif kind is tuple:
            total += 48 + 8 * len(item)
            todo.extend(item)
        else:
            total += 32
    return total


def _flat(value: Any, room: int) -> dict[str, AnyValue] | tuple[AnyValue, ...] | None:
    """The common case, at a fraction of the cost: a dict or list of scalars needing no change; else None."""
    kind = type(value)
    if kind is dict:
        if len(value) > room:
            return None
        pairs = list(value.items())
        for key, item in pairs:
            if type(key) is not str or not key.isascii():
                return None
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    return None
            elif kind is int:
                if not INT64_MIN <= item <= INT64_MAX:
                    return None
            elif not (item is None or kind is bool or kind is float or kind is bytes):
                return None
        return dict(pairs)
    if kind is list or kind is tuple:
        if len(value) > room:
            return None
        items = tuple(value)
        for item in items:
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    return None
            elif kind is int:
                if not INT64_MIN <= item <= INT64_MAX:
                    return None
            elif not (item is None or kind is bool or kind is float or kind is bytes):
                return None
        return items
    return None


def _freeze(value: object, state: _State, depth: int) -> AnyValue:
    """Freeze anything but the scalars its callers deal with in place; raises only if it cannot recover."""
    kind = type(value)
    try:
        # By type() throughout: isinstance() would also ask the object's __class__, which may lie or raise.
        handler = _MEMO.get(kind)
        if handler is None:
            handler = _handler_for(kind)
        return handler(value, state, depth)
    except (KeyboardInterrupt, SystemExit, RecursionError):
        raise
    except BaseException as error:
        return _unprintable(kind, error)


def _elements(items: Iterable[Any], state: _State, depth: int) -> list[AnyValue]:
    out: list[AnyValue] = []
    add = out.append
    for item in items:
        kind = type(item)
        if kind is str:
            add(item if item.isascii() else safe_text(item))
        elif kind is int:
            add(item if INT64_MIN <= item <= INT64_MAX else _int(item, state, depth))
        elif item is None or kind is float or kind is bool or kind is bytes:
            add(item)
        else:
            add(_nested(item, state, depth))
    return out


def _nested(value: object, state: _State, depth: int) -> AnyValue:
    """Freeze one element, so that a hostile one costs only itself."""
    try:
        if depth <= state.limits.depth:
            flat = _flat(value, min(state.limits.items, state.left))
            if flat is not None:
                state.left -= len(flat)
                return flat
        return _freeze(value, state, depth)
    except RecursionError:
        return UNREADABLE


def _entries(pairs: Iterable[tuple[Any, Any]], state: _State, depth: int) -> dict[str, AnyValue]:
    out: dict[str, AnyValue] = {}
    counts: dict[str, int] | None = None
    for key, item in pairs:
        if type(key) is str:
            name = key if key.isascii() else safe_text(key)
        else:
            name = _key_text(key, state, depth)
        if name in out:
            counts = {} if counts is None else counts
            name = _unused(name, out, counts)
        kind = type(item)
        if kind is str:
            out[name] = item if item.isascii() else safe_text(item)
        elif kind is int:
            out[name] = item if INT64_MIN <= item <= INT64_MAX else _int(item, state, depth)
        elif item is None or kind is float or kind is bool or kind is bytes:
            out[name] = item
        else:
            out[name] = _nested(item, state, depth)
    return out


def _key_text(key: object, state: _State, depth: int) -> str:
    """Text for a key: bytes (header names) are decoded, other things are frozen, which bounds them."""
    if type(key) is bytes:
        return key.decode("utf-8", "backslashreplace")
    frozen = freeze(key, limits=state.limits)
    return _cut(frozen if type(frozen) is str else repr(frozen), state.limits.repr_chars)


def _unused(name: str, taken: Mapping[str, object], counts: dict[str, int]) -> str:
    # Counting per name keeps a thousand equal keys from costing a million look-ups.
    number = counts.get(name, 1) + 1
    while f"{name}#{number}" in taken:
        number += 1
    counts[name] = number
    return f"{name}#{number}"


def _take(total: int, state: _State) -> int:
    """Reserve room for up to `total` elements and return how many may be looked at."""
    room = min(total, state.limits.items, state.left)
    state.left -= room
    return room


def _enter(value: object, state: _State, depth: int) -> str | None:
    """Note that we are inside `value`; a mark instead if that must not be."""
    if id(value) in state.inside:
        return CYCLE
    if depth > state.limits.depth:
        return DEPTH_LIMIT
    state.inside.add(id(value))
    return None


def _as_tuple(
    value: object, total: int | None, take: Callable[[int], Iterable[object]], state: _State, depth: int
) -> AnyValue:
    mark = _enter(value, state, depth)
    if mark is not None:
        return mark
    try:
        room = _take(state.limits.items if total is None else total, state)
        out = _elements(take(room), state, depth + 1)
        if total is None:
            state.left += room - len(out)
        elif total > room:
            out.append(f"…(+{total - room} more)")
        return tuple(out)
    finally:
        state.inside.discard(id(value))


def _as_dict(
    value: object,
    total: int | None,
    take: Callable[[int], Iterable[tuple[object, object]]],
    state: _State,
    depth: int,
) -> AnyValue:
    mark = _enter(value, state, depth)
    if mark is not None:
        return mark
    try:
        room = _take(state.limits.items if total is None else total, state)
        out = _entries(take(room), state, depth + 1)
        if total is not None and total > room:
            out[MORE_KEY if MORE_KEY not in out else _unused(MORE_KEY, out, {})] = f"(+{total - room} more)"
        return out
    finally:
        state.inside.discard(id(value))


# -- one function per kind of value --
# Built-in types are read through the built-in's own methods, never through a subclass's overrides.


def _scalar(value: Any, state: _State, depth: int) -> AnyValue:
    return cast(AnyValue, value)


def _str(value: Any, state: _State, depth: int) -> AnyValue:
    return safe_text(value)


def _int(value: Any, state: _State, depth: int) -> AnyValue:
    number = int.__int__(value)
    if INT64_MIN <= number <= INT64_MAX:
        return number
    return _int_text(number, state.limits.repr_chars)


def _int_text(number: int, max_chars: int) -> str:
    bits = number.bit_length()
    if bits <= _DECIMAL_BITS:
        try:
            return _cut(str(number), max_chars)
        except ValueError:  # the interpreter may run with a lower limit on digits than the usual one
            pass
    digits = (bits + 3) // 4
    sign = "-" if number < 0 else ""
    if digits <= max_chars:
        return f"{sign}{abs(number):#x}"
    return f"{sign}{abs(number) >> 4 * (digits - max_chars):#x}…(+{digits - max_chars} more)"


def _float(value: Any, state: _State, depth: int) -> AnyValue:
    return float.__float__(value)


def _bytes(value: Any, state: _State, depth: int) -> AnyValue:
    return bytes.__getitem__(value, slice(None))


def _buffer(value: Any, state: _State, depth: int) -> AnyValue:
    return memoryview(value).tobytes()


def _enum(value: Any, state: _State, depth: int) -> AnyValue:
    if depth > state.limits.depth:  # an enum's value can be an enum
        return DEPTH_LIMIT
    return _nested(value.value, state, depth + 1)


def _integral(value: Any, state: _State, depth: int) -> AnyValue:
    # Not int(value): that warns if __int__ returns a subclass of int.
    return _int(type(value).__int__(value), state, depth)


def _real(value: Any, state: _State, depth: int) -> AnyValue:
    return float.__float__(type(value).__float__(value))


def _numpy_bool(value: Any, state: _State, depth: int) -> AnyValue:
    return bool(value)


def _iso(value: Any, state: _State, depth: int) -> AnyValue:
    return _guarded(operator.methodcaller("isoformat"), value, state.limits.repr_chars)


def _timedelta(value: Any, state: _State, depth: int) -> AnyValue:
    return dt.timedelta.total_seconds(value)


def _as_str(value: Any, state: _State, depth: int) -> AnyValue:
    return _guarded(str, value, state.limits.repr_chars)


def _fraction(value: Any, state: _State, depth: int) -> AnyValue:
    limit = state.limits.repr_chars
    return f"{_int_text(value.numerator, limit)}/{_int_text(value.denominator, limit)}"


def _exception(value: Any, state: _State, depth: int) -> AnyValue:
    name = qualified_name(type(value))
    message = _guarded(str, value, state.limits.repr_chars)
    return f"{name}: {message}" if message else name


def _name(value: Any, state: _State, depth: int) -> AnyValue:
    name = qualified_name(value)
    return safe_repr(value, state.limits.repr_chars) if name == "<unnamed>" else name


def _module(value: Any, state: _State, depth: int) -> AnyValue:
    name = value.__name__
    return safe_text(name) if type(name) is str else safe_repr(value, state.limits.repr_chars)


def _dict(value: Any, state: _State, depth: int) -> AnyValue:
    # list() and islice() run in C, so another thread that changes the dict cannot get in between.
    return _as_dict(value, dict.__len__(value), lambda n: list(islice(dict.items(value), n)), state, depth)


def _mapping(value: Any, state: _State, depth: int) -> AnyValue:
    return _as_dict(value, _length(value), lambda n: list(islice(iter(value.items()), n)), state, depth)


def _namedtuple(value: Any, state: _State, depth: int) -> AnyValue:
    fields = type(value)._fields
    return _as_dict(
        value,
        len(fields),
        lambda n: list(zip(fields[:n], tuple.__getitem__(value, slice(n)), strict=False)),
        state,
        depth,
    )


def _struct(value: Any, state: _State, depth: int) -> AnyValue:
    fields = type(value).__struct_fields__
    return _as_dict(value, len(fields), lambda n: [(f, _field(value, f)) for f in fields[:n]], state, depth)


def _dataclass(value: Any, state: _State, depth: int) -> AnyValue:
    # A field its author keeps out of the repr is kept out of the record: that is how secrets are marked.
    fields = dataclasses.fields(value)
    return _as_dict(
        value,
        len(fields),
        lambda n: [(f.name, _field(value, f.name) if f.repr else HIDDEN) for f in fields[:n]],
        state,
        depth,
    )


def _field(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except (KeyboardInterrupt, SystemExit, RecursionError):
        raise
    except BaseException as error:
        return f"<unreadable: {qualified_name(type(error))}>"


def _list(value: Any, state: _State, depth: int) -> AnyValue:
    return _as_tuple(value, list.__len__(value), lambda n: list.__getitem__(value, slice(n)), state, depth)


def _tuple(value: Any, state: _State, depth: int) -> AnyValue:
    return _as_tuple(value, tuple.__len__(value), lambda n: tuple.__getitem__(value, slice(n)), state, depth)


def _deque(value: Any, state: _State, depth: int) -> AnyValue:
    return _as_tuple(value, deque.__len__(value), lambda n: list(islice(deque.__iter__(value), n)), state, depth)


def _range(value: Any, state: _State, depth: int) -> AnyValue:
    # len() refuses what does not fit in a machine word.
    total = (value[-1] - value[0]) // value.step + 1 if value else 0
    return _as_tuple(value, total, lambda n: value[:n], state, depth)


def _set(value: Any, state: _State, depth: int) -> AnyValue:
    base: Any = set if issubclass(type(value), set) else frozenset
    return _as_sorted(value, base.__len__(value), base.__iter__(value), state, depth)


def _abstract_set(value: Any, state: _State, depth: int) -> AnyValue:
    return _as_sorted(value, _length(value), iter(value), state, depth)


def _as_sorted(value: Any, total: int | None, items: Iterator[object], state: _State, depth: int) -> AnyValue:
    out = _as_tuple(value, total, lambda n: list(islice(items, n)), state, depth)
    if type(out) is not tuple:
        return out
    cut = total is not None and len(out) > 0 and type(out[-1]) is str and out[-1].startswith("…(+")
    body, mark = (out[:-1], out[-1:]) if cut else (out, ())
    try:
        return (*sorted(cast("tuple[Any, ...]", body)), *mark)
    except TypeError:
        return out


def _sequence(value: Any, state: _State, depth: int) -> AnyValue:
    return _as_tuple(value, _length(value), lambda n: list(islice(iter(value), n)), state, depth)


def _repr(value: Any, state: _State, depth: int) -> AnyValue:
    return safe_repr(value, state.limits.repr_chars)


def _length(value: Any) -> int | None:
    """The length an application's own container claims, None if it makes no sense."""
    try:
        return len(value)
    except (KeyboardInterrupt, SystemExit, RecursionError):
        raise
    except BaseException:
        return None


# -- choosing the function --

_BY_BASE: tuple[tuple[tuple[type, ...], _Handler], ...] = (
    ((enum.Enum,), _enum),
    ((str,), _str),
    ((int,), _int),
    ((float,), _float),
    ((bytes,), _bytes),
    ((BaseException,), _exception),
    ((dict,), _dict),
    ((list,), _list),
    ((deque,), _deque),
    ((set, frozenset), _set),
    ((range,), _range),
    ((bytearray, memoryview), _buffer),
    ((dt.date, dt.time), _iso),
    ((dt.timedelta,), _timedelta),
    ((fractions.Fraction,), _fraction),
    (
        (
            uuid.UUID,
            decimal.Decimal,
            pathlib.PurePath,
            UserString,
            ipaddress.IPv4Address,
            ipaddress.IPv6Address,
            ipaddress.IPv4Network,
            ipaddress.IPv6Network,
            ipaddress.IPv4Interface,
            ipaddress.IPv6Interface,
        ),
        _as_str,
    ),
    ((type, types.FunctionType, types.BuiltinFunctionType, types.MethodType), _name),
    ((types.ModuleType,), _module),
)

_BY_ABC: tuple[tuple[type, _Handler], ...] = (
    (numbers.Integral, _integral),
    (numbers.Real, _real),
    (Mapping, _mapping),
    (Set, _abstract_set),
    (Sequence, _sequence),
    (type({}.values()), _sequence),
)

_MEMO: dict[type, _Handler] = {
    str: _str,
    int: _int,
    float: _scalar,
    bool: _scalar,
    type(None): _scalar,
    bytes: _scalar,
    dict: _dict,
    list: _list,
    tuple: _tuple,
}
_BUILTIN_MEMO = dict(_MEMO)


def _handler_for(kind: type) -> _Handler:
    handler = _find_handler(kind)
    # A metaclass with its own equality could claim to be str; such types are looked up each time.
    meta = type(kind)
    if meta.__hash__ is type.__hash__ and meta.__eq__ is type.__eq__:
        if len(_MEMO) >= _MAX_MEMO:  # types made on the fly must not be kept alive for ever
            _MEMO.clear()
            _MEMO.update(_BUILTIN_MEMO)
        _MEMO[kind] = handler
    return handler


def _find_handler(kind: type) -> _Handler:
    mro = type.__dict__["__mro__"].__get__(kind)
    for bases, handler in _BY_BASE:
        for base in bases:
            if base in mro:
                return handler
    if tuple in mro:
        fields = getattr(kind, "_fields", None)
        named = type(fields) is tuple and all(type(field) is str for field in fields)
        return _namedtuple if named else _tuple
    if type(getattr(kind, "__dataclass_fields__", None)) is dict:
        return _dataclass
    if type(getattr(kind, "__struct_fields__", None)) is tuple:
        return _struct
    if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"):
        return _numpy_bool  # the one numpy scalar that is registered as no kind of number
    for abstract, handler in _BY_ABC:
        if issubclass(kind, abstract):
            return handler
    return _repr


# -- text of last resort --


def _guarded(show: Callable[[Any], object], obj: object, max_chars: int) -> str:
    try:
        text = show(obj)
        if not issubclass(type(text), str):
            raise TypeError("text expected")
        return _cut(cast(str, text), max_chars)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return _unprintable(type(obj), error)


def _unprintable(kind: type, error: BaseException) -> str:
    try:
        return f"<unprintable {qualified_name(kind)}: {qualified_name(type(error))}>"
    except RecursionError:
        return UNREADABLE


def _cut(text: str, max_chars: int) -> str:
    if type(text) is not str:
        text = str.__str__(text)
    if len(text) > max_chars:
        text = f"{text[:max_chars]}…(+{len(text) - max_chars} more)"
    return safe_text(text)
