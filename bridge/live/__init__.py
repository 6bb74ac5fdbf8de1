"""The live lane: two rings, cursors, and the hub between the publishing threads and the event loops."""
