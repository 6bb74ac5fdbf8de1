from __future__ import annotations

from base64 import b64encode

import pytest

from bridge.record.attribute_paths import MAX_ATTRIBUTE_DOTS
from tests.record.queries import assert_refused, event, query

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


@pytest.mark.parametrize(
    ("name", "value", "position", "text"),
    [
        ("attr", "user=17", 4, "*: a colon separates key and value; write attr=key:value"),
        ("attr", ":17", 0, "*: the attribute's key is missing; write attr=key:value"),
        ("attr", "a" + ".a" * (MAX_ATTRIBUTE_DOTS + 1), None, "*: a key may have 16 dots; shorten it"),
    ],
)
def test_refused(name: str, value: str, position: int | None, text: str) -> None:
    """An attribute needs a key, a colon before its value, and no more dots than the limit."""
    assert_refused(name, value, position, text)
