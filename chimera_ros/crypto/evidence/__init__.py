"""Evidence: signed checkpoints of unsigned packets, and disclosures and totals that are verifiable later.

Must not depend on: how packets are sealed and opened, and ROS. Begin with `checkpoint_tracker.py`, which
drives the ledgers; `disclosure.py` and `signed_totals.py` work on recorded flights.
"""
