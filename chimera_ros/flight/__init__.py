"""Flight logic as plain objects: planning, leader and follower; no clock, no socket.

`leader` and `follower` are cores that take events and time and return effects; `planning` makes checked
trajectories of a mission file; `rehearsal` flies a mission in memory with both cores. The modules here are
shared by these. Units: ENU metres in the frame `map` (REP 105), seconds; swarm time in nanoseconds.

It must not import ROS, cryptography, path moderation or an autopilot: `nodes` connects it to them.

Begin with `messages` and `vehicle` (input), `effects` (output), then `leader/core` and `follower/core`.
"""
