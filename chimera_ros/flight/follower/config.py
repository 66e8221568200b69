"""Configuration of a follower core, and the return altitudes of a swarm."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..limits import FlightEnvelope


@dataclass(frozen=True, slots=True)
class FollowerConfig:
    """Parameters of one follower core; metres ENU, m/s, seconds."""

    drone: str
    envelope: FlightEnvelope = field(default_factory=FlightEnvelope)
    return_height_m: float = 20.0  # own return altitude, frame map
    return_climb_s: float = 0.0  # a returning drone starts its transit no earlier than this, ...
    return_transit_s: float = 0.0  # ... and its descent no earlier than this much later
    heartbeat_hold_s: float = 1.0  # without leader heartbeat for this long the drone holds, ...
    heartbeat_return_s: float = 15.0  # ... and for this long it returns and lands
    autopilot_timeout_s: float = 1.0  # without autopilot data for this long the autopilot is lost, ...
    blind_land_s: float = 4.0  # ... and this much later it is ordered to land, in case it still receives
    unattended_land_s: float = 3.0  # hovering for this long when this process starts: lands in place
    speed_m_s: float = 4.0  # of GOTO and RETURN legs
    climb_m_s: float = 2.0
    descent_m_s: float = 1.5
    acceleration_m_s2: float = 2.5
    jerk_m_s3: float = 6.0
    avoid_m: float = 1.2  # predicted distance below which a neighbour is avoided; well below the separation
    join_m: float = 2.0  # a plan must begin this near to the reference
    approach_m: float = 3.0  # height above the pad at which RETURN ends and the autopilot lands
    takeoff_timeout_s: float = 40.0
    offboard_grace_s: float = 1.5  # out of offboard for this long: a pilot or the autopilot has taken over
    allow_kill: bool = False

    @staticmethod
    def for_swarm(
        drone: str,
        index: int,
        count: int,
        envelope: FlightEnvelope,
        layer_m: float = 3.0,
        **overrides: object,
    ) -> FollowerConfig:
        """The configuration of drone `index` of `count`, with return altitudes `layer_m` apart as far as the
        geofence allows.

        When all return at once, each first climbs or descends vertically, transits at its own altitude and
        descends onto its own pad, each stage in a time window that is the same for all.
        """
        fence = envelope.fence
        low = max(fence.min_height_m + 6.0, 10.0)
        levels = max(1, min(count, int((fence.max_height_m - 1.0 - low) / layer_m) + 1))
        low = min(low, fence.max_height_m - 1.0)
        base = FollowerConfig(drone, envelope)
        span = (levels - 1) * layer_m
        xs, ys = [c[0] for c in fence.polygon_m], [c[1] for c in fence.polygon_m]
        reach = min(((max(xs) - min(xs)) ** 2 + (max(ys) - min(ys)) ** 2) ** 0.5, 60.0 + 8.0 * count)
        values: dict[str, object] = {
            "return_height_m": low + layer_m * (index % levels),
            "return_climb_s": min(span, 60.0) / base.climb_m_s + 5.0,
            "return_transit_s": min(reach / base.speed_m_s + 4.0, 60.0),
            **overrides,
        }
        return FollowerConfig(drone, envelope, **values)  # type: ignore[arg-type]  # fields by name
