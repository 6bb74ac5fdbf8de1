from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import bridge
from bridge.record.event import UNSET
from bridge.testing import RecordedEvents, record_events

audit = logging.getLogger("audit.role")


def test_events_are_found_by_their_fields(audit_events: RecordedEvents) -> None:
    """Every field that a test may ask for."""
    with bridge.actor("u1", session="s1"):
        bridge.audit_log(
            audit,
            "Role granted",
            action="role_grant",
            metadata={"role": "admin", "n": 1},
            target="user/17",
            outcome="success",
            event="user.grant",
            source="web",
            tenant="t",
        )
    event = audit_events.assert_logged(
        action="role_grant",
        metadata={"role": "admin"},
        message="Role granted",
        level="INFO",
        logger="audit.role",
        event_name="user.grant",
        actor="u1",
        actor_type="user",
        target="user/17",
        outcome="success",
        source="web",
        session="s1",
        tenant="t",
    )
    assert audit_events.matching(metadata={"role": "other"}) == []
    assert audit_events.matching(metadata={"missing": 1}) == []
    assert list(audit_events) == [event] == audit_events[:]


def test_records_of_logging_are_there_too(audit_events: RecordedEvents) -> None:
    """Audit records by the three rules; all else under system."""
    audit.info("by name")
    logging.warning("[AUDIT] by message")
    logging.warning("flagged", extra={"is_audit": True, "metadata": 17})
    logging.warning("plain")
    assert [event.message for event in audit_events] == ["by name", "[AUDIT] by message", "flagged"]
    assert [event.message for event in audit_events.system] == ["plain"]
    assert len(audit_events) == 3
    assert audit_events.matching(metadata={"a": 1}) == []


def test_an_event_that_is_missing_is_told_with_what_was_logged(audit_events: RecordedEvents) -> None:
    """The failure shows what there was instead."""
    with pytest.raises(AssertionError, match=r"at least one .*action.*expected, 0 found\. Logged:\n  \(none\)"):
        audit_events.assert_logged(action="grant")
    bridge.audit_log(audit, "m", action="revoke", actor="u1")
    audit.warning("bare")
    with pytest.raises(AssertionError) as caught:
        audit_events.assert_logged(action="grant")
    assert "audit.role: 'm' action='revoke' actor='u1' outcome='unknown'" in str(caught.value)
    assert "audit.role: 'bare' actor='test'" in str(caught.value)


def test_times_are_counted(audit_events: RecordedEvents) -> None:
    """Exactly so many, or none."""
    nothing: Any = audit_events.assert_logged(times=0)
    assert nothing is UNSET
    audit_events.assert_none()
    audit.info("a")
    audit.info("a")
    assert audit_events.assert_logged(times=2, message="a").message == "a"
    with pytest.raises(AssertionError, match=r"1 audit event\(s\) with .* expected, 2 found"):
        audit_events.assert_logged(times=1)
    with pytest.raises(AssertionError, match="0 audit event"):
        audit_events.assert_none(message="a")
    audit_events.assert_none(message="b")
    audit_events.clear()
    audit_events.assert_none()


def test_recording_leaves_no_trace() -> None:
    """Handlers, targets and the audit logger's level are as before, after an exception too."""
    logger = logging.getLogger("audit")
    before = (logging.getLogger().handlers[:], logger.level)

    def fail() -> None:
        with record_events():
            assert logger.getEffectiveLevel() <= logging.INFO
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert (logging.getLogger().handlers[:], logger.level) == before
    from bridge.capture.audit import targets

    assert targets == []


def test_a_level_somebody_chose_counts() -> None:
    """Recording does not change what the audit logger lets through."""
    logger = logging.getLogger("audit")
    logger.setLevel(logging.ERROR)
    try:
        with record_events() as events:
            audit.warning("hidden")
            bridge.audit_log(audit, "not hidden")
            assert [event.message for event in events] == ["not hidden"]
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(logging.NOTSET)


def test_it_works_beside_a_running_bridge(audit_events: RecordedEvents) -> None:
    """Both get the event."""
    from tests.telemetry import Team, shown

    b = Team().setup()
    bridge.audit_log(audit, "m", action="a")
    assert b.force_flush() is True
    audit_events.assert_logged(times=1, action="a")
    assert [event.action for event in shown(b)] == ["a"]


def test_events_are_as_they_were_at_the_call(audit_events: RecordedEvents) -> None:
    """What is looked at later has not changed meanwhile, and secrets are redacted as in production."""
    metadata: dict[str, Any] = {"list": [1], "password": "hunter2"}
    bridge.audit_log(audit, "m", metadata=metadata)
    metadata["list"].append(2)
    event = audit_events.assert_logged(metadata={"list": (1,)})
    assert "hunter2" not in repr(event)


def test_the_fixture_comes_with_the_package(tmp_path: Path) -> None:
    """In a project's own test run, with nothing imported but bridge; pytest is not needed to record."""
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import logging, bridge
            def test_it(audit_events):
                bridge.audit_log(logging.getLogger("x"), "m", action="a")
                audit_events.assert_logged(times=1, action="a")
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-p", "bridge.testing", "-p", "no:cacheprovider", "-q", str(tmp_path)]
    paths = str(Path(bridge.__file__).parent.parent)
    env = {"PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from bridge.testing import record_events\nimport bridge, logging\n"
        "with record_events() as e: bridge.audit_log(logging.getLogger('x'), 'm')\n"
        "print(len(e))"
    )
    plain = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": paths},
        cwd=tmp_path,
    )
    assert plain.stdout == "1\n"
