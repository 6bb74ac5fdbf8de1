"""A FastAPI service whose records are shown live at /ws/monitor.

Run it, start examples/watch.py in a second terminal, then grant a role in a third:

    python examples/fastapi_service.py
    curl -X POST http://127.0.0.1:8000/roles/u17
"""

import logging

from fastapi import FastAPI

import bridge

b = bridge.setup(service_name="orders")  # joins your LoggerProvider if you have one
app = FastAPI()
app.router.routes.extend(b.routes())  # adds /ws/monitor

log = logging.getLogger("orders")


@app.post("/roles/{user}")
def grant(user: str) -> None:
    log.warning("Granting admin to %s", user)
    with bridge.actor("u8472"):
        bridge.audit_log(log, "Role granted", action="role_grant", metadata={"role": "admin"}, target=f"user/{user}")


if __name__ == "__main__":
    import sys

    import uvicorn

    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
