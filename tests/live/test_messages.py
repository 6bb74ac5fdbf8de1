"""The client's words and the cursors in them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.live.messages import (
    MAX_HISTORY,
    BadMessage,
    Cursor,
    HistoryRequest,
    Pause,
    Ping,
    Resume,
    Subscribe,
    encode,
    format_cursor,
    parse_cursor,
    read_client_message,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "subscribe", "id": "s", "filter": {"q": "x"}}, Subscribe("s", {"q": "x"})),
        ({"type": "subscribe"}, Subscribe(None, {})),
        ({"type": "subscribe", "filter": None}, Subscribe(None, {})),
        ({"type": "pause"}, Pause()),
        ({"type": "resume"}, Resume(None)),
        ({"type": "resume", "after": "e:5"}, Resume(Cursor("e", 5))),
        ({"type": "history"}, HistoryRequest(None, None, 100)),
        ({"type": "history", "id": 7, "before": "e:9", "limit": 1}, HistoryRequest(7, Cursor("e", 9), 1)),
        ({"type": "history", "limit": MAX_HISTORY}, HistoryRequest(None, None, MAX_HISTORY)),
        ({"type": "ping", "id": "x" * 128, "more": [1]}, Ping("x" * 128)),
        ({"type": "ping", "id": -(2**60)}, Ping(-(2**60))),
    ],
)
def test_what_a_client_may_say(given: dict[str, Any], expected: object) -> None:
    """Each message is read into its own kind; what is not known beside it is ignored."""
    assert expected == read_client_message(json.dumps(given))
    assert expected == read_client_message(json.dumps(given).encode())


@pytest.mark.parametrize(
    ("text", "code", "identity"),
    [
        ("", "bad_message", None),
        ("{", "bad_message", None),
        ("\x00", "bad_message", None),
        ("{}" * 2, "bad_message", None),
        (b"\xff", "bad_message", None),
        (b'{"type":"ping","id":"\xff"}', "bad_message", None),
        (r'{"type":"ping","id":"\ud800"}', "bad_message", None),
        ("null", "bad_message", None),
        ('["ping"]', "bad_message", None),
        ("[" * 100_000, "bad_message", None),
        ('{"a":' * 10_000, "bad_message", None),
        ('{"type":"ping","id":' + "9" * 5_000 + "}", "bad_message", None),
        ('{"type":"ping","id":' + "9" * 200 + "}", "bad_message", None),
        ('{"type":"ping","id":1.5}', "bad_message", None),
        ('{"type":"ping","id":"' + "x" * 129 + '"}', "bad_message", None),
        ("{}", "unknown_type", None),
        ('{"type":"PING","id":3}', "unknown_type", 3),
        ('{"type":["ping"],"id":"k"}', "unknown_type", "k"),
        ('{"type":"history","id":1,"limit":0}', "bad_message", 1),
        ('{"type":"history","id":1,"limit":1001}', "bad_message", 1),
        ('{"type":"history","id":1,"limit":true}', "bad_message", 1),
        ('{"type":"history","id":1,"limit":"5"}', "bad_message", 1),
        ('{"type":"history","id":1,"before":"nonsense"}', "bad_cursor", 1),
        ('{"type":"resume","id":1,"after":5}', "bad_cursor", 1),
        ('{"type":"resume","id":1,"after":"e:-1"}', "bad_cursor", 1),
        ('{"type":"resume","id":1,"after":"e:9999999999999999999"}', "bad_cursor", 1),
    ],
)
def test_what_can_not_be_acted_on(text: str | bytes, code: str, identity: object) -> None:
    """Anything else is refused by the protocol's word for it, with the message's id if it has one."""
    with pytest.raises(BadMessage) as caught:
        read_client_message(text)
    assert (code, identity) == (caught.value.code, caught.value.id)
    assert len(str(caught.value)) < 500
    assert json.loads(encode("error", code=code, id=caught.value.id, message=str(caught.value)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["subscribe", "pause", "resume", "history", "ping"]) | VALUES


@given(
    st.fixed_dictionaries(
        {"type": TYPES},
        optional={"id": VALUES, "filter": VALUES, "after": VALUES, "before": VALUES, "limit": VALUES},
    )
    | VALUES
)
def test_any_json_is_read_or_refused(given: object) -> None:
    """Whatever JSON comes, the answer is a message or a refusal that can be sent back."""
    refused: BadMessage | None = None
    try:
        read_client_message(json.dumps(given, ensure_ascii=False).encode(errors="surrogatepass"))
    except BadMessage as error:
        refused = error
    if refused is not None:
        assert refused.code in ("bad_message", "unknown_type", "bad_cursor")
        encode("error", code=refused.code, id=refused.id, message=str(refused))


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_garbage_is_refused(given: bytes | str) -> None:
    """Bytes and text at random are refused, never a crash."""
    with pytest.raises(BadMessage):
        read_client_message(given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e:0", Cursor("e", 0)),
        ("a:b:7", Cursor("a:b", 7)),
        ("e:007", Cursor("e", 7)),
        (f"e:{2**63 - 1}", Cursor("e", 2**63 - 1)),
        (f"e:{2**63}", None),
        ("e:", None),
        (":1", None),
        ("e", None),
        ("", None),
        ("e:+1", None),
        ("e:1 ", None),
        ("e:\u0661", None),  # a digit, though not of ours
        ("e:1_0", None),
        ("e" * 128 + ":1", None),
        (5, None),
        (None, None),
    ],
)
def test_cursors(text: object, expected: Cursor | None) -> None:
    """A cursor is an epoch and a number of plain digits; anything else is none."""
    assert expected == parse_cursor(text)
    if expected is not None:
        assert expected == parse_cursor(format_cursor(*expected))
