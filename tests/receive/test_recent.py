"""Which ids are known, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.receive.recent import RecentIds, Seen


def test_new_again_other() -> None:
    """An id is new until it is kept; then the same content is a copy, and another is not."""
    recent = RecentIds(10)
    assert recent.look("a", 1) is Seen.NEW
    assert recent.look("a", 1) is Seen.NEW
    recent.keep("a", 1)
    assert recent.look("a", 1) is Seen.AGAIN
    assert recent.look("a", 2) is Seen.OTHER
    assert recent.look("a", 1) is Seen.AGAIN


def test_forget() -> None:
    """A forgotten id is new again, in either generation; one that was never there is no error."""
    recent = RecentIds(1)
    recent.keep("a", 1)
    recent.keep("b", 1)
    for each in ("a", "b", "c"):
        recent.forget(each)
        assert recent.look(each, 1) is Seen.NEW
    assert len(recent) == 0


def test_none_at_all() -> None:
    """With room for none, nothing is remembered."""
    recent = RecentIds(0)
    recent.keep("a", 1)
    assert (recent.look("a", 1), len(recent)) == (Seen.NEW, 0)


@given(st.integers(1, 5), st.lists(st.integers(0, 30), max_size=60))
def test_two_generations(number: int, ids: list[int]) -> None:
    """The last so many ids are always known, and never more than twice as many."""
    recent = RecentIds(number)
    kept: list[str] = []
    for each in map(str, ids):
        if recent.look(each, 7) is Seen.NEW:
            recent.keep(each, 7)
            kept.append(each)
        assert len(recent) <= 2 * number
        assert all(recent.look(one, 7) is Seen.AGAIN for one in kept[-number:])
