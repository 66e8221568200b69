"""Kinds of autopilot in a swarm, and the usual connection URL of each in simulation."""

from __future__ import annotations

from enum import StrEnum


class AutopilotKind(StrEnum):
    """Kind of autopilot. `embedded` is this package's own SITL: it behaves as PX4, except that its local NED
    frame is a projection of the WGS-84 ellipsoid, not of a sphere.
    """

    EMBEDDED = "embedded"
    PX4 = "px4"
    ARDUPILOT = "ardupilot"


def usual_connect(kind: AutopilotKind, embedded_port: int) -> str:
    """MAVSDK URL template for a simulated swarm of this kind; `embedded_port` is that of the first drone."""
    match kind:
        case AutopilotKind.EMBEDDED:
            return f"udpin://127.0.0.1:{{{embedded_port}+i}}"
        case AutopilotKind.PX4:
            return "udpin://127.0.0.1:{14540+i}"
        case AutopilotKind.ARDUPILOT:
            return "tcpout://127.0.0.1:{5760+10*i}"
