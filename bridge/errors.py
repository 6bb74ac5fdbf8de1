"""Every exception this package raises on purpose, in one tree.

    BridgeError
    ├── SettingsError (ValueError)     a setting has a wrong name, type or value
    ├── SetupError (RuntimeError)      setup() can't be done as asked, e.g. twice with other arguments
    ├── MissingDependency (ImportError)  an optional part was asked for and is not installed
    ├── AddressUnavailable (OSError)   a host or port can't be bound
    └── AuditUnavailable (RuntimeError)  an audit event is not known to be durable, and the caller asked to hear it

`bridge.record.filters` adds FilterError (ValueError): a client's filter can't be used as it was given.

Data lives in attributes; ``str(error)`` is one line that names the value, the rule and the remedy.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "AddressUnavailable",
    "AuditUnavailable",
    "BridgeError",
    "MissingDependency",
    "SettingsError",
    "SetupError",
]


class BridgeError(Exception):
    """Base of every exception that this package raises on purpose."""


class SettingsError(BridgeError, ValueError):
    """A setting has a wrong name, type or value.

    Attributes: ``name`` (as the user wrote it), ``value``, ``rule`` (what is allowed), ``remedy``.
    """

    def __init__(self, name: str, value: object, rule: str, remedy: str = "") -> None:
        super().__init__(name, value, rule, remedy)
        self.name = name
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 200:
            shown = shown[:200] + "…"
        return f"{self.name}={shown}: {self.rule}" + (f"; {self.remedy}" if self.remedy else "")


class SetupError(BridgeError, RuntimeError):
    """``setup()`` can't be done as asked."""


class MissingDependency(BridgeError, ImportError):
    """An optional part was asked for and is not installed.

    Attributes: ``package`` (what is missing), ``purpose``, ``extra`` (the extra that brings it).
    """

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(package, purpose, extra)
        self.package = package
        self.purpose = purpose
        self.extra = extra

    def __str__(self) -> str:
        return (
            f"{self.purpose} needs the package {self.package}, which is not installed; "
            f"run: pip install 'otel-audit-bridge[{self.extra}]'"
        )


class AddressUnavailable(BridgeError, OSError):
    """A host or port can't be bound.

    Attributes: ``host``, ``port``, ``reason``, ``option`` (how to choose another port).
    """

    def __init__(self, host: str, port: int, reason: str, option: str = "--port N, BRIDGE_PORT=N") -> None:
        super().__init__(host, port, reason, option)
        self.host = host
        self.port = port
        self.reason = reason
        self.option = option

    def __str__(self) -> str:
        remedy = f"choose another port ({self.option}; 0 takes any free one) or end the program that uses it"
        if not self.reason.startswith("taken"):
            remedy = f"is it an address of this machine (--host, BRIDGE_HOST)? Else {remedy}"
        return f"can't listen on {self.host}:{self.port} ({self.reason}); {remedy}"


class AuditUnavailable(BridgeError, RuntimeError):
    """An audit event is not known to be durable.

    ``outcome`` is ``"unknown"`` (it may still commit) or ``"lost"``.
    """

    def __init__(self, reason: str, outcome: Literal["unknown", "lost"]) -> None:
        super().__init__(reason, outcome)
        self.reason = reason
        self.outcome = outcome

    def __str__(self) -> str:
        return f"audit event {self.outcome}: {self.reason}"
