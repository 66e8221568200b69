"""Executables of the swarm: one lifecycle node per kind of process.

Each connects a pure core (flight, moderation, crypto) to a `SecureSession` and, in the follower, to
autopilots. No package imports this one, and nodes do not import commands or launcher. Begin reading with
`member_node`, the common base, then the shortest node, `crypto`; `leader` and `follower` fly.
"""

import os

from chimera_ros.ros.environment import middleware_fault
from chimera_ros.terminal.lines import print_line

# Where the middleware asked for is not installed, importing rclpy ends the process without an exception.
if (fault := middleware_fault(os.environ)) is not None:
    print_line(f"this node cannot start: {fault}", error=True)
    raise SystemExit(2)
