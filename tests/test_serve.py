"""A real ``audit-bridge serve``: every way in, every answer, TLS, and how it ends."""

import contextlib
import gzip
import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.monitors import CLOSE, FrameClient, kind
from tests.receiving import (
    JSON,
    PROTOBUF,
    Serving,
    as_json,
    call,
    post,
    request,
    said,
    serve_command,
    serving,
    status_of,
)
from tests.serving import PATIENCE_SECONDS, child, environment, eventually, free_port, listening_socket

ONE = said("one").SerializeToString()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Serving]:
    """One that lives through the tests which don't end it; nothing odd may have been said by then."""
    with serving(BRIDGE_AUDIT_SOURCES="shop,bank*", BRIDGE_RECEIVE_BYTES="100000") as running:
        yield running
        running.end()


def shown(client: FrameClient, count: int) -> list[dict[str, Any]]:
    """The next records."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        message = client.until(lambda each: each["type"] in ("batch", "system_log", "audit_log"))[-1]
        found += message["data"] if message["type"] == "batch" else [message]
    return found


@contextlib.contextmanager
def watching(running: Serving) -> Iterator[FrameClient]:
    with FrameClient(running.view, "?v=2") as client:
        client.until(kind("ready"))
        yield client


def test_round_trip(lasting: Serving) -> None:
    """What is sent by gRPC, or by HTTP to either port, in any encoding, is seen by a client."""
    made = request({"body": "paid", "severity_number": 13, "attributes": {"n": 1}}, {"body": "[AUDIT] login"})
    body, tree = made.SerializeToString(), json.dumps(as_json(made)).encode()
    before = lasting.statistics()
    with watching(lasting) as client, lasting.channel() as channel:

        def check(name: str) -> None:
            plain, audit = shown(client, 2)
            assert (plain["type"], plain["data"]["message"], audit["type"]) == ("system_log", "paid", "audit_log"), name
            assert plain["data"]["resource"] == {"service.name": "shop"}
            assert plain["data"]["peer"].startswith("127.0.0.1:")

        for compression in (None, grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert call(channel, body, compression=compression) == (grpc.StatusCode.OK, b"", {})
            check("grpc")
        for port in (lasting.http, lasting.view):
            for content, content_type in ((body, PROTOBUF), (tree, JSON)):
                for coding in ("identity", "gzip"):
                    given = gzip.compress(content) if coding == "gzip" else content
                    answer = post(port, given, content_type, content_encoding=coding)
                    assert (answer.status, answer.rejected) == (200, (0, ""))
                    check(content_type)
    after = lasting.statistics()
    assert {name: after[name] - before[name] for name in ("requests", "received", "accepted", "system", "audit")} == {
        "requests": 11,
        "received": 22,
        "accepted": 22,
        "system": 11,
        "audit": 11,
    }


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize("which", ["http", "view"])
def test_answers_over_http(lasting: Serving, which: str, content_type: str) -> None:
    """Every kind of request has the answer that the reference promises, with a Status in its own encoding."""
    port = getattr(lasting, which)
    rows: list[tuple[Any, dict[str, Any], int, int]] = [
        (b"\xff", {}, 400, 3),
        (b"no gzip", {"content_encoding": "gzip"}, 400, 3),
        (gzip.compress(ONE)[:-9], {"content_encoding": "gzip"}, 400, 3),
        (ONE, {"content_encoding": "zstd"}, 415, 12),
        (bytes(100_001), {}, 413, 8),
        (gzip.compress(bytes(100_001)), {"content_encoding": "gzip"}, 413, 8),
        (ONE, {"origin": "http://evil.example"}, 403, 7),
        (ONE, {"host": "evil.example"}, 403, 7),
        (ONE, {"x_forwarded_for": "127.0.0.1"}, 403, 7),
        (ONE, {"forwarded": "for=127.0.0.1"}, 403, 7),
        (ONE, {"method": "PUT"}, 405, 12),
        (None, {"method": "GET"}, 405, 12),
    ]
    before = lasting.statistics()
    for body, options, status, code in rows:
        answer = post(port, body, content_type, **options)
        assert (answer.status, answer.code, answer.headers["content-type"]) == (status, code, content_type)
    assert post(port, ONE, "text/plain").status == 415
    after = lasting.statistics()
    reasons = {name: count - before["refused"].get(name, 0) for name, count in after["refused"].items()}
    assert {name: reasons[name] for name in ("malformed", "unsupported", "too_large", "forbidden")} == {
        "malformed": 3,
        "unsupported": 2,
        "too_large": 2,
        "forbidden": 4,
    }
    assert after["accepted"] == before["accepted"]
    assert post(port, ONE, path="/v1/nothing").status == 404


def test_partial_success_over_http(lasting: Serving) -> None:
    """Records that can't be read are told with their number and the first problem; the others are shown."""
    tree = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "good"}}, 7, 8]}]}]}
    with watching(lasting) as client:
        answer = post(lasting.http, json.dumps(tree), JSON)
        assert (answer.status, answer.rejected) == (200, (2, "logRecords[1]: logRecords must hold objects, not 7"))
        assert shown(client, 1)[0]["data"]["message"] == "good"


def test_answers_over_grpc(lasting: Serving) -> None:
    """gRPC has the codes that the reference promises, and the Status where there is more to say."""
    with lasting.channel() as channel:
        code, words, trailing = call(channel, b"\xff")
        assert (code, status_of(trailing["grpc-status-details-bin"])[:2]) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            (3, words.decode()),
        )
        for body, compression in ((bytes(100_001), None), (bytes(1 << 20), grpc.Compression.Gzip)):
            assert call(channel, body, compression=compression)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Other")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert call(channel, ONE)[0] is grpc.StatusCode.OK


def test_audit_sources(lasting: Serving) -> None:
    """A service that is not among the sources shows its audit records as system records, marked."""
    with watching(lasting) as client:
        for service in ("stranger", "bank.east"):
            body = request({"body": "[AUDIT] x"}, resource={"service.name": service}).SerializeToString()
            assert post(lasting.http, body).status == 200
        refused, taken = shown(client, 2)
    assert (refused["type"], refused["data"]["attributes"]["bridge.audit_refused"]) == ("system_log", True)
    assert taken["type"] == "audit_log"


def test_copies(lasting: Serving) -> None:
    """The same record by two ways is shown once."""
    body = request({"body": "once", "time_unix_nano": 5, "attributes": {"log.record.uid": "u"}}).SerializeToString()
    before = lasting.statistics()
    with lasting.channel() as channel:
        assert call(channel, body)[0] is grpc.StatusCode.OK
    assert post(lasting.http, body).status == 200
    after = lasting.statistics()
    assert (after["accepted"] - before["accepted"], after["duplicates"] - before["duplicates"]) == (1, 1)


def other_address() -> str | None:
    """An address of this machine that is not loopback."""
    for somewhere in ("198.51.100.1", "192.0.2.9"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect((somewhere, 9))  # nothing is sent
            address = str(probe.getsockname()[0])
            if not address.startswith(("127.", "0.")):
                return address
    return None


def test_other_machines_need_the_token() -> None:
    """On all addresses, who comes by another than loopback has the token or is refused; who is local needs none."""
    address = other_address()
    if address is None:
        pytest.skip("platform: this machine has no address but loopback")
    with serving("--host", "0.0.0.0", BRIDGE_TOKEN="s3cret") as running:
        assert "http://127.0.0.1:" in running.line
        for token, status, code in (
            (None, 401, grpc.StatusCode.UNAUTHENTICATED),
            ("wrong", 401, None),
            ("s3cret", 200, None),
        ):
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            for port in (running.http, running.view):
                answer = post(port, ONE, address=address, **headers)
                assert answer.status == status
                assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
            expected = code or (grpc.StatusCode.OK if status == 200 else grpc.StatusCode.UNAUTHENTICATED)
            with grpc.insecure_channel(f"{address}:{running.grpc}") as channel:
                assert call(channel, ONE, **headers)[0] is expected
        assert post(running.http, ONE).status == 200
        assert post(running.http, ONE, x_forwarded_for="192.0.2.9").status == 401
        with running.channel() as channel:
            assert call(channel, ONE)[0] is grpc.StatusCode.OK
        assert "s3cret" not in "".join(running.end())


# -- TLS ---------------------------------------------------------------------------------------------------------------


class Papers:
    """An authority, a server's certificate, and a client's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority, self.other = trustme.CA(), trustme.CA()
        server, self.client, self.stranger = (
            authority.issue_cert("localhost", "127.0.0.1"),
            authority.issue_cert("sender"),
            self.other.issue_cert("stranger"),
        )
        self.ca = self._write("ca.pem", authority.cert_pem)
        self.certificate = self._write("server.pem", *server.cert_chain_pems)
        self.key = self._write("server.key", server.private_key_pem)
        self.other_key = self._write("other.key", self.stranger.private_key_pem)
        self.wrong = folder / "wrong.pem"
        self.wrong.write_text("no certificate")

    def _write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    @property
    def options(self) -> list[str]:
        return ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]

    def context(self, cert: Any = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if cert is not None:
            cert.configure_cert(context)
        return context

    def channel(self, port: int, cert: Any = None) -> Any:
        chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems) if cert else None
        key = cert.private_key_pem.bytes() if cert else None
        return grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain))


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


def view_statistics(running: Serving, context: ssl.SSLContext) -> Any:
    return json.loads(post(running.view, None, path="/api/stats", method="GET", context=context).body)


def test_tls(papers: Papers) -> None:
    """With a certificate all ports speak TLS and nothing else; no client certificate is asked for."""
    with serving(*papers.options) as running:
        assert running.scheme == "https"
        assert "records: wss://" in running.line
        for port in (running.http, running.view):
            assert post(port, ONE, context=papers.context()).status == 200
            with pytest.raises((OSError, Exception)):
                post(port, ONE)
        with papers.channel(running.grpc) as channel:
            assert call(channel, ONE)[0] is grpc.StatusCode.OK
        with running.channel() as channel:
            assert call(channel, ONE)[0] is grpc.StatusCode.UNAVAILABLE
        assert view_statistics(running, papers.context())["accepted"] == 3
        running.end()


def test_client_certificates(papers: Papers) -> None:
    """With an authority the OTLP ports ask for a certificate of its; the live view's port does not."""
    with serving(*papers.options, "--tls-client-ca", str(papers.ca)) as running:
        assert post(running.http, ONE, context=papers.context(papers.client)).status == 200
        with papers.channel(running.grpc, papers.client) as channel:
            assert call(channel, ONE)[0] is grpc.StatusCode.OK
        for cert in (None, papers.stranger):
            with pytest.raises(OSError, match=r"SSL|reset|closed|EOF|alert"):
                post(running.http, ONE, context=papers.context(cert))
            with papers.channel(running.grpc, cert) as channel:
                assert call(channel, ONE)[0] is grpc.StatusCode.UNAVAILABLE
        assert post(running.view, ONE, context=papers.context()).status == 200
        assert view_statistics(running, papers.context())["accepted"] == 3
        running.end()


def fails(*options: str, **variables: str) -> str:
    """The one line of a serve that can't be."""
    with child(*serve_command(*options), env=environment(**variables)) as process:
        assert process.wait() == 2
        (line,) = process.lines
        return line


def test_wrong_papers(papers: Papers) -> None:
    """Files that are no certificates, or don't belong together, are one line each; nothing listens then."""
    good = str(papers.certificate)
    for options, start in (
        (["--tls-certificate", str(papers.wrong), "--tls-key", str(papers.key)], "tls_certificate="),
        (["--tls-certificate", good, "--tls-key", str(papers.other_key)], "tls_certificate="),
        (["--tls-certificate", good, "--tls-key", str(papers.wrong)], "tls_certificate="),
        (["--tls-certificate", good], "tls_certificate="),
        (["--tls-certificate", good, "--tls-key", str(papers.folder / "none")], "tls_key="),
        ([*papers.options, "--tls-client-ca", str(papers.wrong)], "tls_client_ca="),
        (["--tls-client-ca", str(papers.ca)], "tls_client_ca="),
    ):
        assert fails(*options).startswith(f"audit-bridge: {start}"), options


# -- what can't be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--port", "--otlp-grpc-port", "--otlp-http-port"])
def test_a_taken_port(option: str) -> None:
    """A port of somebody else's is one line that names the option, for each of the three."""
    with listening_socket() as other:
        port = other.getsockname()[1]
        line = fails(option, str(port))
    assert line.startswith(f"audit-bridge: can't listen on 127.0.0.1:{port} (taken")
    assert f"({option} N, BRIDGE_{option[2:].upper().replace('-', '_')}=N" in line


def test_a_second_one(lasting: Serving) -> None:
    """A second monitor never shares a port with the first."""
    for option, port in (
        ("--port", lasting.view),
        ("--otlp-grpc-port", lasting.grpc),
        ("--otlp-http-port", lasting.http),
    ):
        assert f"can't listen on 127.0.0.1:{port}" in fails(option, str(port))
    same = str(free_port())
    assert "can't listen on" in fails("--port", same, "--otlp-http-port", same)


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--host", "0.0.0.0"], {}, "no token is set"),
        (["--host", "203.0.113.9"], {"BRIDGE_TOKEN": "t"}, "can't listen on 203.0.113.9"),
        (["--port", "99999"], {}, "a port is a whole number"),
        ([], {"BRIDGE_RECEIVE_BYTES": "x"}, "BRIDGE_RECEIVE_BYTES="),
        ([], {"BRIDGE_AUDIT_SOURCES": "a*" * 17}, "audit_sources="),
    ],
)
def test_wrong_use(options: list[str], variables: dict[str, str], words: str) -> None:
    """What can't be done is one line, and exit code 2."""
    assert words in fails(*options, **variables)


def test_unknown_settings() -> None:
    """A setting that is misspelt is said, without its value."""
    with serving(BRIDGE_RECIEVE_BYTES="s3cret") as running:
        lines = running.end()
    assert any("BRIDGE_RECIEVE_BYTES is not a setting" in line for line in lines)
    assert "s3cret" not in "".join(lines)


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end(number: signal.Signals) -> None:
    """Either signal ends it within seconds; clients get 1001, half a request is turned away; the ports are free."""
    with serving() as running:
        head = f"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PROTOBUF}\r\n"
        head += f"Content-Length: {len(ONE)}\r\n\r\n"
        with (
            watching(running) as client,
            FrameClient(running.view) as old,
            running.channel() as channel,
            socket.create_connection(("127.0.0.1", running.http), PATIENCE_SECONDS) as sender,
            socket.create_connection(("127.0.0.1", running.view), PATIENCE_SECONDS) as idle,
        ):
            assert call(channel, ONE)[0] is grpc.StatusCode.OK
            shown(client, 1)
            sender.sendall(head.encode() + ONE[:5])
            # The connection is known to have been read once another request behind it was answered.
            assert post(running.http, ONE).status == 200
            began = time.monotonic()
            running.process.process.send_signal(number)
            # Nobody is left to show it to: it has to come again.
            assert sender.recv(9_999).startswith(b"HTTP/1.1 503 ")
            client.rest()
            old.rest()
            assert (client.closed, old.closed) == (1001, 1001)
            assert idle.recv(99) == b""
            running.end()
            assert time.monotonic() - began < 8
    assert running.process.lines[-1].startswith("audit-bridge serve: shown 2 records of 2 requests; 0 copies left out")
    for port in (running.view, running.http, running.grpc):
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS).close()
    except OSError:
        return True
    return False


def test_ended_in_the_middle_of_a_large_request() -> None:
    """A large gRPC request that is being decoded when the signal comes is answered OK, and shown."""
    body = said(*("x" * 20 for _ in range(60_000))).SerializeToString()
    with serving() as running, running.channel() as channel:
        answers: list[Any] = []
        sending = threading.Thread(target=lambda: answers.append(call(channel, body)[0]))
        sending.start()
        eventually(lambda: running.statistics()["accepted"] > 0)
        running.process.process.terminate()
        sending.join(PATIENCE_SECONDS)
        running.end()
    assert answers == [grpc.StatusCode.OK]
    assert "shown 60000 records of 1 requests" in running.process.lines[-1]


def test_ended_before_anything_happens() -> None:
    """A signal right after the line is as clean."""
    with serving() as running:
        assert running.end()[-1].startswith("audit-bridge serve: shown 0 records")


def test_a_client_that_does_not_say_goodbye(lasting: Serving) -> None:
    """A client's close is answered while senders go on."""
    with watching(lasting) as client:
        client.send(CLOSE, b"\x03\xe8")
        assert post(lasting.http, ONE).status == 200
        client.rest()
        assert client.closed == 1000


def test_a_body_that_does_not_come_holds_nothing_up() -> None:
    """Half a request is answered at the end, with a Status, and is no error of the monitor's."""
    with serving() as running:
        for port in (running.http, running.view):
            with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as sender:
                sender.sendall(
                    b"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 99\r\n\r\n{"
                )
                # The connection is known to have been read once another request behind it was answered.
                assert post(port, ONE).status == 200
                if port == running.view:
                    running.process.process.terminate()
                    answer = b"".join(iter(lambda: sender.recv(9_999), b""))
                    assert answer.startswith(b"HTTP/1.1 503 ")
                    assert b"retry-after: 1" in answer.lower()
                    assert b"shutting down" in answer
        lines = running.end()
    assert "1 requests refused" in lines[-1]


def test_other_paths_of_the_otlp_port(lasting: Serving) -> None:
    """Whoever sends or watches in the wrong place is told the right one, and a lost sender is counted."""
    before = lasting.statistics()["refused"].get("unsupported", 0)
    for path in ("/", "/v1/logs/v1/logs"):
        answer = post(lasting.http, ONE, path=path)
        assert (answer.status, answer.code) == (404, 5)
        assert b"/v1/logs" in answer.body
    view = f"http://127.0.0.1:{lasting.view}/"
    assert view in post(lasting.http, None, path="/api/stats", method="GET").body.decode()
    assert lasting.statistics()["refused"]["unsupported"] == before + 2
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{lasting.http}/ws/monitor", proxy=None):
        pass
    assert refused.value.response.status_code == 404
    assert view in (refused.value.response.body or b"").decode()


def test_what_is_no_http_is_said_in_our_words() -> None:
    """gRPC or TLS on a plain HTTP port: the monitor says, once, what may be meant."""
    with serving() as running:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", running.http), PATIENCE_SECONDS) as sender:
                sender.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
                assert b" 400 " in sender.recv(9_999)
        lines = running.end()
    assert sum("somebody does not speak HTTP on an HTTP port" in line for line in lines) == 1
    assert not any("Invalid HTTP request" in line for line in lines)
