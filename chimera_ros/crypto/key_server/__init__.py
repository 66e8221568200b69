"""Key server of a crypto node: admits members, issues and rotates epochs, evicts members, fails over.

Begin with server.py: `KeyServer` drives an epoch through the modules that its docstring lists. It contains
the crypto node's own member side (member/).

Only testing/ imports it here; its parts take the member context, no `SecureHost` and no `KeyServer`.
"""
