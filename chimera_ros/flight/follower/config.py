"""What one follower core must know beforehand, and how a swarm's return altitudes are kept apart."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..limits import FlightEnvelope


@dataclass(frozen=True, slots=True)
class FollowerConfig:
    """Everything that one follower core needs to know beforehand. Metres ENU, m/s, seconds."""

    drone: str
    envelope: FlightEnvelope = field(default_factory=FlightEnvelope)
    return_height_m: float = 20.0  # own return altitude, frame map
    return_climb_s: float = 0.0  # a returning drone begins to cross not before this time, ...
    return_transit_s: float = 0.0  # ... and to descend not before this much more
    heartbeat_hold_s: float = 1.0  # silence of the leader after which the drone holds, ...
    heartbeat_return_s: float = 15.0  # ... and after which it returns and lands
    vehicle_lost_s: float = 1.0  # silence of the autopilot after which it counts as lost
    blind_land_s: float = 4.0  # ... and after this much more it is told to land, should it still hear
    orphan_land_s: float = 3.0  # found hovering when this process began, for so long: lands in place
    speed_m_s: float = 4.0  # own legs: GOTO and RETURN
    climb_m_s: float = 2.0
    descent_m_s: float = 1.5
    acceleration_m_s2: float = 2.5
    jerk_m_s3: float = 6.0
    avoid_m: float = (
        1.2  # neighbours predicted nearer than this are dodged; keep it well below the separation asked
    )
    join_m: float = 2.0  # a plan must begin this near to where the drone will be
    approach_m: float = 3.0  # height above the pad from which RETURN lets the autopilot land
    takeoff_timeout_s: float = 40.0
    offboard_grace_s: float = (
        1.5  # how long the autopilot may not say offboard before it counts as taken over
    )
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
        """The configuration of drone `index` of `count`: return altitudes as distinct as the envelope's
        height allows.

        When all return at once, each first climbs or descends in its own column, crosses at its own altitude,
        and descends onto its own pad, each part in a time window that is the same for all.
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
