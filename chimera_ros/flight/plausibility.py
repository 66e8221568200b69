"""Plausibility check of telemetry: anomalies that break the physics of a multicopter.

A certified member may send false telemetry (captured) or wrong telemetry (its estimator diverged), which its
signature does not show; consecutive reports that contradict each other or the limits of flight do. Anomalies
are counted, and nothing is dropped here. ENU metres, seconds.

Not detected: false telemetry with plausible derivatives, such as a slow drift that the velocity follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from math import dist, isfinite

from .messages import DroneState, DroneTelemetry
from .vehicle import Vec3

_STANDING = (DroneState.GROUNDED, DroneState.LANDED)
_NS = 1e-9


class Anomaly(Enum):
    """Anomaly of a report; the value is its key in counters."""

    NOT_FINITE = "not_finite"
    IMPOSSIBLE = "impossible"  # a state, position or velocity that no message may hold
    SPEED = "speed"  # faster than a drone can fly
    JUMP = "jump"  # the position moved otherwise than the velocity says
    ACCELERATION = "acceleration"  # the velocity changed faster than a drone can accelerate
    ATTITUDE = "attitude"  # no unit quaternion, or upside down in steady flight
    GROUND = "ground"  # on the ground and moving, or far above where it stood
    BATTERY = "battery"  # outside 0..1 or charging in flight
    STAMP = "stamp"  # its time goes back or deviates from swarm time


@dataclass(frozen=True, slots=True)
class PlausibilityLimits:
    """Limits that noise and gusts of a normal flight do not reach (docs/threat-model.md)."""

    max_speed_m_s: float = 25.0
    max_acceleration_m_s2: float = 20.0
    velocity_noise_m_s: float = 1.5  # between two reports, beyond what the acceleration explains
    position_noise_m: float = 1.0  # the same for positions
    jitter_s: float = 0.5  # a stalled process reports late: position tolerance of this time times the speed
    window_s: float = 1.0  # span over which position is compared with integrated velocity
    standing_speed_m_s: float = 2.0
    lifted_m: float = 1.5
    max_tilt_z: float = 0.0  # z of the body's up axis in the map: below is more than 90 degrees of tilt
    battery_rise: float = 0.1
    stamp_skew_s: float = 1.0
    gap_s: float = 2.0  # after a longer gap the history is dropped


@dataclass(slots=True)
class _Track:
    """The last `window_s` of one drone."""

    reports: deque[tuple[float, Vec3, Vec3, Vec3]] = field(default_factory=deque)  # t, p, v, integral of v
    ground_z_m: float | None = None
    lowest_battery: float = 2.0
    received_s: float = -1e9
    stamp_ns: int = 0


class PlausibilityMonitor:
    """Checks every report of the named drones and counts their anomalies."""

    def __init__(self, drones: Iterable[str], limits: PlausibilityLimits | None = None) -> None:
        self.limits = limits or PlausibilityLimits()
        self.anomalies: dict[str, dict[Anomaly, int]] = {}  # counts by drone
        self._tracks = {name: _Track() for name in drones}

    def check(self, report: DroneTelemetry, now: float, swarm_ns: int) -> tuple[Anomaly, ...]:
        """Anomalies of a report received at `now` (s, monotonic) and `swarm_ns` (swarm time).

        Unknown drones are not checked. A reordered report (stamp not newer than the last) is a STAMP anomaly
        only if it is older than reordering explains.
        """
        track = self._tracks.get(report.drone)
        if track is None:
            return ()
        found = self._judge(track, report, now, swarm_ns)
        for anomaly in found:
            self.flag(report.drone, anomaly)
        return found

    def flag(self, drone: str, anomaly: Anomaly) -> None:
        """Count a anomaly of a known drone that was found elsewhere, such as in conversion."""
        if drone in self._tracks:
            counts = self.anomalies.setdefault(drone, {})
            counts[anomaly] = counts.get(anomaly, 0) + 1

    def _judge(self, track: _Track, report: DroneTelemetry, now: float, swarm_ns: int) -> tuple[Anomaly, ...]:
        limits = self.limits
        position, velocity = report.position_enu_m, report.velocity_enu_m_s
        if not all(map(isfinite, (*position, *velocity, *report.orientation))):
            # Before its autopilot connects a drone has no position.
            unknown = report.state in (DroneState.UNKNOWN, DroneState.LOST) or not report.in_air
            return () if unknown else (Anomaly.NOT_FINITE,)
        found = []
        if abs(report.stamp_ns - swarm_ns) * _NS > limits.stamp_skew_s:
            found.append(Anomaly.STAMP)
        if dist(velocity, (0.0, 0.0, 0.0)) > limits.max_speed_m_s:
            found.append(Anomaly.SPEED)
        found += self._attitude(report)
        fresh = now - track.received_s > limits.gap_s
        if fresh:
            track.reports.clear()
            track.lowest_battery = 2.0
        elif report.stamp_ns <= track.stamp_ns:
            behind_s = (track.stamp_ns - report.stamp_ns) * _NS
            return (*found, Anomaly.STAMP) if behind_s > limits.stamp_skew_s / 2 else tuple(found)
        found += self._motion(track, report)
        found += self._ground(track, report)
        found += self._battery(track, report)
        track.received_s, track.stamp_ns = now, report.stamp_ns
        return tuple(dict.fromkeys(found))

    def _motion(self, track: _Track, report: DroneTelemetry) -> list[Anomaly]:
        limits = self.limits
        at, position, velocity = report.stamp_ns * _NS, report.position_enu_m, report.velocity_enu_m_s
        found: list[Anomaly] = []
        integral: Vec3 = (0.0, 0.0, 0.0)
        if track.reports:
            before_s, _, old_velocity, old_integral = track.reports[-1]
            dt = at - before_s
            if dist(velocity, old_velocity) > limits.velocity_noise_m_s + limits.max_acceleration_m_s2 * dt:
                found.append(Anomaly.ACCELERATION)
            fastest = max(dist(v, (0.0, 0.0, 0.0)) for v in (velocity, *(r[2] for r in track.reports)))
            integral = _moved(old_integral, old_velocity, velocity, dt)
            for then_s, then, _, then_integral in (track.reports[-1], track.reports[0]):
                span = at - then_s
                flown = (
                    position[0] - then[0] - (integral[0] - then_integral[0]),
                    position[1] - then[1] - (integral[1] - then_integral[1]),
                    position[2] - then[2] - (integral[2] - then_integral[2]),
                )
                # The trapezoid misses at most a dt^2 / 12 per step: bounded by what acceleration can do.
                slack = limits.position_noise_m + limits.max_acceleration_m_s2 * dt * span / 12.0
                slack += limits.jitter_s * min(fastest, limits.max_speed_m_s)
                if dist(flown, (0.0, 0.0, 0.0)) > slack:
                    found.append(Anomaly.JUMP)
                    break
        if Anomaly.JUMP in found or Anomaly.ACCELERATION in found:
            track.reports.clear()  # one jump is one anomaly, not one per report of the window
        track.reports.append((at, position, velocity, integral))
        while len(track.reports) > 64 or at - track.reports[0][0] > limits.window_s:
            track.reports.popleft()
        return found

    def _attitude(self, report: DroneTelemetry) -> list[Anomaly]:
        x, y, z, w = report.orientation
        length = x * x + y * y + z * z + w * w
        up = 1.0 - 2.0 * (x * x + y * y)
        wrong = abs(length - 1.0) > 0.05 or (report.in_air and up < self.limits.max_tilt_z)
        return [Anomaly.ATTITUDE] if wrong else []

    def _ground(self, track: _Track, report: DroneTelemetry) -> list[Anomaly]:
        height_m = report.position_enu_m[2]
        if report.state not in _STANDING:
            track.ground_z_m = None
            return []
        if track.ground_z_m is None:
            track.ground_z_m = height_m
        moving = dist(report.velocity_enu_m_s, (0.0, 0.0, 0.0)) > self.limits.standing_speed_m_s
        lifted = abs(height_m - track.ground_z_m) > self.limits.lifted_m
        return [Anomaly.GROUND] if moving or lifted else []

    def _battery(self, track: _Track, report: DroneTelemetry) -> list[Anomaly]:
        level = report.battery_fraction
        if not isfinite(level):
            return []
        rose = level > track.lowest_battery + self.limits.battery_rise and report.in_air
        track.lowest_battery = min(level, track.lowest_battery)
        return [Anomaly.BATTERY] if rose or not -0.01 <= level <= 1.01 else []


def _moved(start: Vec3, first: Vec3, last: Vec3, dt: float) -> Vec3:
    """A position integral advanced by the trapezoid rule."""
    return (
        start[0] + 0.5 * (first[0] + last[0]) * dt,
        start[1] + 0.5 * (first[1] + last[1]) * dt,
        start[2] + 0.5 * (first[2] + last[2]) * dt,
    )
