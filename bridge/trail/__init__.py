"""The durable, tamper-evident audit trail: a chain of hashed records, and what finds out whether it is whole.

So far the pure part: :mod:`~bridge.trail.canonical` turns a record into the bytes that are hashed,
:mod:`~bridge.trail.chain` links records, :mod:`~bridge.trail.housekeeping` makes the records that the trail keeps about
itself, :mod:`~bridge.trail.verify` judges copies of them. No I/O, clock, thread or OpenTelemetry here.
"""
