"""Key server of a crypto node: admits members, issues and rotates epochs, evicts members, fails over.

Begin with server.py: `KeyServer` drives an epoch through the modules that its docstring lists. It contains
the crypto node's own member side (member/).

It may import all of crypto but testing/. Its parts take the member context, never a `SecureHost` or a
`KeyServer`.
"""
