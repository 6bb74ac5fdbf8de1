"""What is served: `/ws/monitor` and the few pages beside it, on Starlette."""
