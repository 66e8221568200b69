"""Member side of the key protocol: joining, epochs, resync, fallback and stops of all members of a process.

Begin with host.py: `SecureHost` takes control messages and time, returns effects, and seals and opens
packets. control_plane.py dispatches control messages to their handlers, over the state and checks of
context.py; member.py is the state of one member.

It must not import key_server: a key server of the same process is called through key_server_hooks.py only.
"""
