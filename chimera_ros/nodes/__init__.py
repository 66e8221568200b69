"""Executables of the swarm: one lifecycle node per kind of process.

Each connects a pure core (flight, moderation, crypto) to a `SecureSession` and, in the follower, to
autopilots. No package imports this one, and nodes do not import commands or launcher. Begin reading with
`member_node`, the common base, then the shortest node, `crypto`; `leader` and `follower` fly.
"""
