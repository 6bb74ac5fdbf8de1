"""A client of /ws/monitor that needs nothing but the package websockets.

    python examples/watch.py [URL]

The URL is ws://127.0.0.1:8000/ws/monitor if not given; a token is read from the variable BRIDGE_TOKEN. Prints one
line a record until the server ends or Ctrl-C.
"""

import json
import os
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def printable(text: str) -> str:
    """Log content is hostile: control characters could rewrite the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000/ws/monitor"
    token = os.environ.get("BRIDGE_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with connect(url, additional_headers=headers, max_size=None) as socket:
            print(f"watching {url}", flush=True)
            for message in socket:
                record = json.loads(message)
                data = record["data"]
                kind = "AUDIT" if record["type"] == "audit_log" else data["level"]
                line = f"{data['timestamp']} {kind} {data['logger']}: {data['message']}"
                if data.get("action"):
                    line += f" ({data['action']} {json.dumps(data.get('metadata'), ensure_ascii=False)})"
                print(printable(line), flush=True)
    except ConnectionClosed as end:
        received = end.rcvd
        print(f"closed: {received.code} {received.reason}" if received else "the connection broke", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
