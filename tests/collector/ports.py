"""Ports for programs that can't be given port 0, or that have to come back on the same one."""

import random
import socket

# Below those that the kernel gives to clients and to whoever binds port 0: while a killed collector is away, nobody
# gets its port by chance.
_PORTS = range(20_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody listens on, and that this process was not given before."""
    while True:
        port = random.choice(_PORTS)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
