from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

import bridge
from bridge.capture.context import AuditContext, audit_context, current_audit_context


def test_a_context_has_only_what_was_said() -> None:
    """Empty fields are no attributes."""
    assert AuditContext().attributes() == {}
    assert AuditContext(actor_id="u", request_id="r").attributes() == {"audit.actor.id": "u", "request.id": "r"}
    everything = AuditContext(
        actor_id="1",
        actor_type="2",
        source_id="3",
        source_type="4",
        session_id="5",
        client_address="6",
        user_agent="7",
        request_id="8",
    )
    assert everything.attributes() == {
        "audit.actor.id": "1",
        "audit.actor.type": "2",
        "audit.source.id": "3",
        "audit.source.type": "4",
        "session.id": "5",
        "client.address": "6",
        "user_agent.original": "7",
        "request.id": "8",
    }


def test_contexts_nest() -> None:
    """Inside, what is set anew wins and the rest stays; outside, all is as before."""
    with bridge.actor("u1", source="web", session="s1"):
        with bridge.actor("svc", type="service"):
            inner = current_audit_context()
        outer = current_audit_context()
    assert inner == AuditContext(actor_id="svc", actor_type="service", source_id="web", session_id="s1")
    assert outer == AuditContext(actor_id="u1", actor_type="user", source_id="web", session_id="s1")
    assert current_audit_context() == AuditContext()


def test_an_exception_ends_a_context() -> None:
    """Raising out of the block leaves nothing behind."""
    with pytest.raises(ValueError, match="x"), bridge.actor("u1"):
        raise ValueError("x")
    assert current_audit_context() == AuditContext()


def test_values_become_text() -> None:
    """A number is text, and a lone surrogate can be sent."""
    with audit_context(actor_id=17, session_id="\ud800"):  # type: ignore[arg-type]
        assert current_audit_context() == AuditContext(actor_id="17", session_id="\\ud800")


def test_contexts_reach_across_await_and_into_tasks() -> None:
    """Each task sees its own actor, however they take turns; a task begins with its maker's."""

    async def act(name: str) -> list[str]:
        seen = []
        with bridge.actor(name):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(current_audit_context().actor_id)
            seen.append(await asyncio.create_task(inherited()))
        return seen

    async def inherited() -> str:
        return current_audit_context().actor_id

    async def main() -> list[list[str]]:
        return list(await asyncio.gather(act("a"), act("b")))

    assert asyncio.run(main()) == [["a"] * 4, ["b"] * 4]


def test_a_thread_begins_without_a_context() -> None:
    """As documented: a thread has contexts of its own."""
    seen: list[AuditContext] = []
    with bridge.actor("u1"):
        thread = threading.Thread(target=lambda: seen.append(current_audit_context()))
        thread.start()
        thread.join()
    assert seen == [AuditContext()]


def test_a_context_may_be_left_elsewhere_than_entered() -> None:
    """An async generator closed by the garbage collector leaves in another context; nothing is raised."""
    manager = audit_context(actor_id="u1")
    contextvars.copy_context().run(manager.__enter__)
    manager.__exit__(None, None, None)
    assert current_audit_context() == AuditContext()
