"""Evidence: signed checkpoints of unsigned packets, and disclosures and totals that are verifiable later.

What it must not know: how packets are sealed and opened, and ROS. Begin with `checkpoint_tracker.py`, which
drives the ledgers; `disclosure.py` and `signed_totals.py` work on recorded flights.
"""
