from __future__ import annotations

from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.classify import audit_message_possible, is_audit, is_flagged, is_wire_logger


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (None, False),
        (1, True),
        (0, False),
        ("true", True),
        ("yes", True),
        ("1", True),
        ("false", False),
        (" FALSE ", False),
        ("no", False),
        ("off", False),
        ("none", False),
        ("null", False),
        ("0", False),
        ("", False),
        ([], False),
        ([0], True),
        (Undecided(), True),
    ],
)
def test_a_flag_counts_as_it_reads(value: Any, expected: bool) -> None:
    """Words mean what they say, and in doubt it is an audit record."""
    assert is_flagged(value) is expected


@pytest.mark.parametrize(
    ("logger", "expected"),
    [("uvicorn.error", True), ("websockets.server", True), ("websocketsx", False), ("app", False)],
)
def test_transport_loggers_are_known_by_name(logger: str, expected: bool) -> None:
    """A name covers its children and nothing else."""
    assert is_wire_logger(logger) is expected


names = st.sampled_from(["audit.", "audit.x", "audit", "auditx.y", "Audit.x", "app.audit.x", ""])
texts = st.sampled_from(["[AUDIT]", "[AUDIT] x", " [AUDIT]", "[audit] x", "x [AUDIT]", "[AUDI", ""])
flags = st.sampled_from([None, True, False, "true", "no", 0, 1])
ids = st.sampled_from([None, "", "id", 0, 7])


@given(logger=names | st.text(), message=texts | st.text(), flag=flags, record_id=ids)
def test_the_three_rules_in_every_combination(logger: str, message: str, flag: Any, record_id: Any) -> None:
    """Exactly the fixed rules decide."""
    attributes = {
        key: value for key, value in (("is_audit", flag), ("audit.record.id", record_id)) if value is not None
    }
    expected = (
        logger.startswith("audit.")
        or message.startswith("[AUDIT]")
        or flag in (True, "true", 1)
        or record_id in ("id", 7)
    )
    assert is_audit(logger, message, attributes) is expected


@given(logger=names, message=texts, flag=flags)
def test_rules_can_be_added_and_none_removed(logger: str, message: str, flag: Any) -> None:
    """A rule that says no takes nothing away; one that says yes makes every record an audit record."""
    attributes = {"is_audit": flag}
    fixed = is_audit(logger, message, attributes)
    assert is_audit(logger, message, attributes, (lambda *_: False,)) is fixed
    assert is_audit(logger, message, attributes, (lambda *_: False, lambda *_: True)) is True


def test_a_rule_that_raises_does_not_match() -> None:
    """The next rule is asked."""

    def broken(*_: Any) -> NoReturn:
        raise ValueError

    assert is_audit("app", "m", {}, (broken,)) is False
    assert is_audit("app", "m", {}, (broken, lambda logger, message, attributes: logger == "app")) is True


pieces = st.lists(st.sampled_from(["[", "A", "AUDIT", "]", "%s", "%%", "x", " ", "%", "[AUDIT]"]), max_size=5)


@given(template=pieces.map("".join), argument=st.sampled_from(["", "[", "AUDIT]", "[AUDIT]", "]", "x"]))
def test_a_template_that_may_become_an_audit_message_is_found(template: str, argument: str) -> None:
    """No formatted text begins with the prefix unless the template does, or was said to be possible."""
    try:
        text = template % ((argument,) * template.replace("%%", "").count("%s"))
    except (ValueError, TypeError):
        return
    if text.startswith("[AUDIT]"):
        assert template.startswith("[AUDIT]") or audit_message_possible(template)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("%s", True),
        ("[%s", True),
        ("[AUDIT%s", True),
        ("[AUDIT]%s", False),
        ("x%s", False),
        ("[INFO] %s", False),
        ("[AUDIT", False),
        ("", False),
    ],
)
def test_few_templates_have_to_be_looked_at(template: str, expected: bool) -> None:
    """Only those whose fixed beginning is a beginning of the prefix."""
    assert audit_message_possible(template) is expected
