"""Quantum circuits in a worker process: sampling for moderation, QRNG and BB84 photons for entropy.

Must not depend on: ROS, nodes and processes of the swarm. Only the worker process imports Qiskit. Begin
with `worker.py` (the parent's side), `process.py` (the worker) and `jobs.py`; `entropy_feed.py` fills the
entropy pool.
"""
