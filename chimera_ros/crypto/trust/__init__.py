"""Trust: roles, X.509 certificates, revocation list and policy, and their verification.

Must not depend on: epochs, sessions and messages of the key protocol. Begin with `identity.py`
(certificates and the `Trust` that validates them) and `policy.py` (who may publish where).
"""
