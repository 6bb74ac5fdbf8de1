from __future__ import annotations

import copy

from bridge.errors import BridgeError
from bridge.record.conditions import EventTest, FilterError, all_of
from bridge.record.event import LogEvent
from tests.record.queries import event, refusal


def test_long_value_is_shown_where_it_is_wrong() -> None:
    """Of a long value the error shows what is around the place."""
    error = refusal([("q", "x" * 500 + "\0" + "y" * 500)])
    assert f"…'{'x' * 30}\\x00{'y' * 29}'… at position 500" in str(error)


def test_error_is_a_value_error_and_survives_copying() -> None:
    """It is one of ours and one of Python's, and a copy says the same."""
    error = refusal([("q", "a\0")])
    assert isinstance(error, BridgeError)
    assert isinstance(error, ValueError)
    again = copy.copy(error)  # by the protocol of pickle
    assert type(again) is FilterError
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_all_of() -> None:
    """All tests must hold, in their order, and none is asked after one that does not."""
    asked = []

    def test(answer: bool) -> EventTest:
        def answers(event: LogEvent) -> bool:
            asked.append(answer)
            return answer

        return answers

    assert all_of([])(event())
    assert all_of([test(True)] * 3)(event())
    assert asked == [True] * 3
    assert not all_of([test(True), test(False), test(True)])(event())
    assert asked == [True] * 4 + [False]
