"""Keystore on disk: the authority's and the members' certificates and keys, policy, and members' state.

Must not depend on: epochs and sessions. Begin with `keystore.py`; `member_state.py` is the state that
every member stores across restarts.
"""
