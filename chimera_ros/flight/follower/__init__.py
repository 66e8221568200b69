"""Follower: one drone's control logic, from verified commands and vehicle state to orders and setpoints.

Envelope, operator stop and failsafes are evaluated here, whatever the leader commands. It must not import
`leader` or `planning`.

Begin with `core`, which lists the precedence of its rules, then `commands`, `failsafes` and `steering`; all
parts share `state`. `shard` holds the followers of one process.
"""
