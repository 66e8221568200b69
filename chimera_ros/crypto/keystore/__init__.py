"""Keystore on disk: the authority's and the members' certificates and keys, policy, and members' state.

What it must not know: epochs and sessions. Begin with `keystore.py`; `member_state.py` is the state that
every member stores across restarts.
"""
