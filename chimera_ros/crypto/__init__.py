"""The security protocol (docs/protocol.md) as plain objects: no clock, no socket, no ROS."""
