"""Kills, as a power cut or the kernel would: what arrives all the same, and what arrives twice."""

import contextlib
import threading
from pathlib import Path

import pytest

from tests.collector.fleet import fleet, numbered, queued, settled
from tests.collector.running import file_bodies, post
from tests.collector.secrets import Secrets
from tests.collector.sinks import arrived, bodies, copies
from tests.collector.watching import monitor
from tests.serving import eventually

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("real_collector")]


def test_what_a_killed_gateway_had_accepted_arrives(tmp_path: Path, secrets: Secrets) -> None:
    """The archive is away, the gateway is killed and comes back: each record arrives, and none twice."""
    with fleet(tmp_path, secrets) as running:
        running.gateway.start()
        running.agent.start()
        running.send(*numbered(1, 5))
        arrived(running.archive, set(numbered(1, 5)))
        settled(running)
        running.archive.stop()
        running.send(*numbered(6, 25))
        eventually(lambda: set(file_bodies(running.gateway.audit_file)) == set(numbered(1, 25)), "the gateway has all")
        eventually(lambda: not queued(running.agent, "otlp_grpc/gateway_audit"), "the agent knows it")
        running.gateway.kill()
        running.gateway.start()
        running.archive.start()
        arrived(running.archive, set(numbered(1, 25)), 60)
        settled(running)
        assert copies(running.archive) == dict.fromkeys(numbered(1, 25), 1)
        assert sorted(file_bodies(running.gateway.audit_file)) == sorted(numbered(1, 25)), "nor is the file begun anew"


def test_what_a_killed_agent_had_accepted_arrives(tmp_path: Path, secrets: Secrets) -> None:
    """The gateway is not there yet, the agent is killed and comes back: each record arrives, and none twice."""
    with fleet(tmp_path, secrets) as running:
        running.agent.start()
        running.send(*numbered(1, 20))
        running.agent.kill()
        running.agent.start()
        running.send(*numbered(21, 25))
        running.gateway.start()
        arrived(running.archive, set(numbered(1, 25)), 60)
        settled(running)
        assert copies(running.archive) == dict.fromkeys(numbered(1, 25), 1)


def test_what_was_under_way_at_a_kill_arrives_twice(tmp_path: Path, secrets: Secrets) -> None:
    """A batch that the archive took without its answer being heard is sent again; no other is."""
    with fleet(tmp_path, secrets) as running:
        running.gateway.start()
        running.agent.start()
        running.send(*numbered(1, 3))
        arrived(running.archive, set(numbered(1, 3)))
        settled(running)
        running.archive.answering.clear()
        running.send(*numbered(4, 6))
        eventually(lambda: "n=4" in bodies(running.archive), "the archive has taken a record and not answered")
        under_way = set(bodies(running.archive)) - set(numbered(1, 3))
        running.gateway.kill()
        running.archive.answering.set()
        running.gateway.start()
        arrived(running.archive, set(numbered(1, 6)))
        eventually(lambda: all(copies(running.archive)[each] == 2 for each in under_way), "they came again")
        settled(running)
        expected = {each: 2 if each in under_way else 1 for each in numbered(1, 6)}
        assert copies(running.archive) == expected


def test_nothing_accepted_is_lost_whatever_is_killed(tmp_path: Path, secrets: Secrets) -> None:
    """Records flow while gateway, agent and archive go and come back: all arrive, and the monitor shows each once."""
    stop, accepted = threading.Event(), list[str]()
    with (
        monitor(secrets) as watched,
        fleet(tmp_path, secrets, MONITOR_ENDPOINT=watched.http_endpoint) as running,
    ):
        running.gateway.start()
        running.agent.start()

        def flow() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                row = {"body": f"n={number}", "attributes": {"audit.record.id": f"id-{number}"}}
                answer = 0
                while answer != 200 and not stop.wait(0.002):
                    with contextlib.suppress(OSError):
                        answer = post(running.agent.http_port, [row])
                if answer == 200:
                    accepted.append(f"n={number}")

        sender = threading.Thread(target=flow, name="test-sender")
        sender.start()
        victims = (running.gateway, running.agent, running.gateway, running.agent)
        try:
            for victim in victims:
                before = len(accepted)
                eventually(lambda before=before: len(accepted) >= before + 50, "records flow")  # type: ignore[misc]
                if victim is running.gateway:
                    running.archive.stop()
                victim.kill()
                victim.start()
                running.archive.start()
        finally:
            stop.set()
            sender.join()
        arrived(running.archive, set(accepted), 60)
        settled(running)
        watched.shows("audit_log", set(accepted))
        shown = watched.texts("audit_log")
        assert len(shown) == len(set(shown)), "the monitor knows copies by their audit.record.id"
        found = copies(running.archive)
        twice = sorted(text for text, count in found.items() if count > 1)
        print(f"{len(accepted)} accepted; more than once: {len(twice)} ({twice[:5]}...)")
        # One was accepted by an agent that had no time to say so; the others were in the batches under way.
        assert set(found) - set(accepted) <= {f"n={len(accepted) + 1}"}
        assert max(found.values()) <= 1 + len(victims)
        assert len(twice) < len(accepted) / 2
