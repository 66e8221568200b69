"""Cryptographic primitives: hash, HKDF, AEAD, ML-DSA-87, HPKE, Merkle trees, and the replay window.

Must not depend on: members, messages and policy. Begin with `suite.py` and `interfaces.py`;
`key_schedule.py` and `labels.py` define how keys are derived, `providers.py` selects the library.
"""
