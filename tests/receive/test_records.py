"""What both decoders share: origins, budgets, times, order."""

from typing import Any

import pytest

from bridge.receive import records
from bridge.receive.records import Budget, Origins, TooMany, by_time, check_numbers, clamp_time
from bridge.record.conditions import FilterError
from tests.monitors import event
from tests.receiving import builder


def shop(name: Any = "shop") -> dict[str, Any]:
    return {"service.name": name}


def never() -> dict[str, Any]:
    raise AssertionError("looked at twice")


def test_one_resource_for_many_records() -> None:
    """The same resource on the wire is decoded once and shared."""
    origins = Origins(builder())
    first = origins.find(b"a", shop)
    assert origins.find(b"a", never) is first
    assert first.resource == shop()
    assert origins.find(b"b", shop) is not first


def test_secrets_in_resources() -> None:
    """A resource is redacted before it is shared."""
    assert Origins(builder()).find(b"a", lambda: {"password": "x"}).resource == {"password": "[REDACTED]"}


@pytest.mark.parametrize(
    ("globs", "service", "may"),
    [
        (("*",), "shop", True),
        (("*",), None, True),
        (("shop",), "shop", True),
        (("shop",), "shopper", False),
        (("sh*", "bank"), "bank", True),
        (("sh*", "bank"), "sheep", True),
        ((), "shop", False),
        (("shop",), 7, False),
        (("shop",), None, False),
    ],
)
def test_who_may_show_audit_records(globs: tuple[str, ...], service: Any, may: bool) -> None:
    """A source may if a glob fits its service.name; one without a name has none that could fit."""
    found = Origins(builder(), globs).find(b"a", lambda: {} if service is None else shop(service))
    assert found.may_audit is may


def test_a_wrong_glob() -> None:
    """A glob that can't be is an error when it is given."""
    with pytest.raises(FilterError):
        Origins(builder(), ("a*" * 17,))


def test_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large resources are not remembered, and not more than a number of small ones."""
    monkeypatch.setattr(records, "_MAX_RESOURCES", 3)
    origins = Origins(builder())
    for wire, attributes in ((b"x" * 20_000, shop()), (b"y", shop("z" * 20_000))):
        first = origins.find(wire, lambda attributes=attributes: attributes)  # type: ignore[misc]
        assert origins.find(wire, lambda attributes=attributes: attributes) is not first  # type: ignore[misc]
    for number in range(10):
        origins.find(b"%d" % number, shop)
        assert len(origins._known) <= 3


def test_budget() -> None:
    """It gives what is left, down to nothing."""
    budget = Budget()
    assert budget.take(records.MAX_ELEMENTS - 1) == records.MAX_ELEMENTS - 1
    assert (budget.take(5), budget.take(5), budget.take(0)) == (1, 0, 0)


@pytest.mark.parametrize(("given", "kept"), [(-1, 0), (0, 0), (5, 5), (2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1)])
def test_clamp_time(given: int, kept: int) -> None:
    """A time is never negative, and fits in 64 bits."""
    assert clamp_time(given) == kept


def test_check_numbers() -> None:
    """The first number that is too large ends it; what comes after is not asked for."""
    check_numbers([0, records.MAX_RECORDS])
    numbers = iter([1, records.MAX_RECORDS + 1, 7])
    with pytest.raises(TooMany, match=f"{records.MAX_RECORDS + 1} records, scopes or resources"):
        check_numbers(numbers)
    assert next(numbers) == 7


def test_by_time() -> None:
    """Only the events from a place on are sorted, and those of one time keep their order."""
    made = [event(text) for text in "abcd"]
    by_time(made, 1)
    assert [each.message for each in made] == ["a", "b", "c", "d"]
