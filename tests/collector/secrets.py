"""A certificate authority, certificates and tokens, as files that live as long as a test."""

import subprocess
from pathlib import Path

from tests.collector.binaries import openssl


class Secrets:
    """A folder with what the configurations expect in theirs; all certificates are for this machine's loopback."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=tests"
        )
        self.certificate("tls")
        for name in ("gateway", "archive", "monitor"):
            (folder / f"{name}-token").write_text(f"{self.token(name)}\n")
        (folder / "kafka-ca.crt").write_text(self.text("ca.crt"))

    def token(self, name: str) -> str:
        """The bearer token for one of the three."""
        return f"token-of-the-{name}"

    def certificate(self, name: str) -> None:
        """Make ``name``.crt and ``name``.key, signed by the authority."""
        self._openssl("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        (self.folder / f"{name}.ext").write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
        )
        signed_by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", f"{name}.ext", *signed_by
        )

    def text(self, name: str) -> str:
        """A file's content."""
        return (self.folder / name).read_text()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run([openssl(), *arguments], cwd=self.folder, check=True, capture_output=True, timeout=30)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
