"""Drone tracker of the leader: each drone's newest telemetry, and which drones are lost.

`check` marks a drone in flight as lost when its telemetry times out, its autopilot is lost, or it lands,
returns or enters a failsafe without an order. A drone lost by a time-out alone can recover,
`_MAX_RECOVERIES` times in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np

from ..geometry import distance, norm
from ..messages import DroneState, DroneTelemetry, ReasonCode
from ..planning.mission import Mission
from ..vehicle import Vec3
from .outbox import Outbox
from .state import FLYING, ON_GROUND, LeaderConfig, LeaderState, TrackedDrone, to_vec3

_REORDER_S = 0.5  # packets overtake each other within this; an older stamp later is a clock set back
# Each recovery repeats the current move: without this bound a mission with a bad radio would never end.
_MAX_RECOVERIES = 3
_RECOVERY_WINDOW_S = 120.0  # recoveries are counted from zero when the losses are further apart
_STALL_S = 0.3  # a leader not ticked for this long received nothing: its own stall is no drone's time-out


class DroneTracker:
    """The drones of one mission by their newest telemetry; ENU metres, monotonic seconds."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        names: Sequence[str],
        outbox: Outbox,
        state: LeaderState,
    ) -> None:
        self._config, self._mission, self._outbox, self._state = config, mission, outbox, state
        self.names = tuple(names)
        self.drones = {name: TrackedDrone(name) for name in names}
        self.pads: dict[str, Vec3] = {}
        self._checked_s: float | None = None

    def on_telemetry(self, telemetry: DroneTelemetry, now: float) -> None:
        """Stores a drone's telemetry; unknown drones and packets received out of order are ignored."""
        drone = self.drones.get(telemetry.drone)
        if drone is None:
            return
        newest = drone.telemetry if now - drone.received_s < _REORDER_S else None
        if newest is None or telemetry.stamp_ns >= newest.stamp_ns:
            drone.telemetry, drone.received_s = telemetry, now

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the lost drones."""
        return tuple(d.name for d in self.drones.values() if d.lost)

    def record_pads(self) -> None:
        """Takes the drones' present positions as their pads."""
        self.pads = {
            d.name: d.telemetry.position_enu_m for d in self.drones.values() if d.telemetry is not None
        }

    def batteries(self, names: Sequence[str]) -> dict[str, float]:
        """Battery level of each drone with telemetry, as a fraction."""
        return {n: t.battery_fraction for n in names if (t := self.drones[n].telemetry) is not None}

    # ---- losses --------------------------------------------------------------------------------

    def check(self) -> str:
        """Marks lost drones; returns the name of a drone that an operator has stopped, or an empty string."""
        now = self._state.now
        stall_s = 0.0 if self._checked_s is None else now - self._checked_s
        self._checked_s = now
        for drone in self.drones.values():
            if stall_s > _STALL_S:
                drone.received_s = min(drone.received_s + stall_s, now)
            t = drone.telemetry
            if t is not None and drone.timed_out:
                self._recover(drone, t)
            if t is None or drone.lost:
                continue
            if t.state in FLYING or t.in_air:
                drone.in_flight = True
            elif drone.landing_ordered and t.state in ON_GROUND and not t.armed:
                drone.in_flight = False
            if not drone.in_flight:
                continue
            age_s = now - drone.received_s
            if age_s > self._config.telemetry_timeout_s:
                self._mark_lost(drone, f"no telemetry for {age_s:.1f} s")
                drone.timed_out, drone.recovering_since = True, None
                continue
            if t.reason_code is ReasonCode.OPERATOR_STOP:
                drone.landing_ordered = True
                if self._state.stopping:
                    continue
                return drone.name
            if t.state in (DroneState.FAILSAFE, DroneState.LOST) or (
                t.state in (DroneState.RETURNING, DroneState.LANDING, DroneState.LANDED)
                and not drone.landing_ordered
            ):
                if drone.fault_since is None:
                    drone.fault_since = now
                elif now - drone.fault_since > 1.0:
                    self._mark_lost(
                        drone, f"{t.state.name.lower()}: {t.reason or 'no data from its autopilot'}"
                    )
            else:
                drone.fault_since = None
        return ""

    def _recover(self, drone: TrackedDrone, t: DroneTelemetry) -> None:
        """Takes back a drone whose telemetry has returned; it joins the next move or the next attempt."""
        if drone.recoveries >= _MAX_RECOVERIES:
            return
        if self._state.now - drone.received_s > 0.5 or t.state not in FLYING:
            drone.recovering_since = None
        elif drone.recovering_since is None:
            drone.recovering_since = self._state.now
        elif self._state.now - drone.recovering_since > 0.5:
            drone.lost, drone.timed_out = "", False
            drone.recoveries += 1
            self._outbox.event("found", f"{drone.name} sends telemetry again and rejoins the mission.")

    def _mark_lost(self, drone: TrackedDrone, why: str) -> None:
        if self._state.now - drone.lost_s > _RECOVERY_WINDOW_S:
            drone.recoveries = 0
        drone.lost, drone.lost_s = f"{why}, during {self._state.phase}", self._state.now
        self._outbox.event("lost", f"{drone.name} is lost: {drone.lost}; the others continue.")
        self._outbox.cancel(drone.name)

    # ---- queries ---------------------------------------------------------------------------------

    def active(self, name: str) -> bool:
        """True if the drone is not lost."""
        return not self.drones[name].lost

    def fresh(self, name: str) -> bool:
        """True if its newest telemetry is younger than the time-out."""
        drone = self.drones[name]
        return (
            drone.telemetry is not None
            and self._state.now - drone.received_s <= self._config.telemetry_timeout_s
        )

    def state(self, name: str) -> DroneState:
        """The newest reported state."""
        t = self.drones[name].telemetry
        return DroneState.UNKNOWN if t is None else t.state

    def reason(self, name: str) -> str:
        """The newest reported reason, text for people."""
        t = self.drones[name].telemetry
        return "" if t is None else t.reason

    def reason_code(self, name: str) -> ReasonCode:
        """The newest reported reason code."""
        t = self.drones[name].telemetry
        return ReasonCode.NONE if t is None else t.reason_code

    def airborne(self) -> list[str]:
        """Drones in the air with fresh telemetry and a live autopilot."""
        down = (*ON_GROUND, DroneState.LOST)
        return [n for n in self.names if self.fresh(n) and self.state(n) not in down]

    def operator_stopped(self) -> list[str]:
        """Drones in the air that an operator has stopped."""
        return [n for n in self.airborne() if self.reason_code(n) is ReasonCode.OPERATOR_STOP]

    def offboard_left(self, name: str) -> bool:
        """True if its autopilot left offboard: a pilot or the autopilot's own failsafe flies it."""
        t = self.drones[name].telemetry
        return t is not None and t.state is DroneState.FAILSAFE and t.reason_code is ReasonCode.OFFBOARD_LEFT

    def ready(self, drone: TrackedDrone) -> bool:
        """True if it reports that it can arm."""
        return (
            drone.telemetry is not None and drone.telemetry.ready and self._state.now - drone.received_s < 1.5
        )

    def why_not_ready(self, drone: TrackedDrone) -> str:
        """Why `ready` is False, for a sentence."""
        if drone.telemetry is None:
            return "no telemetry yet"
        if self._state.now - drone.received_s >= 1.5:
            return f"no telemetry for {self._state.now - drone.received_s:.0f} s"
        return drone.telemetry.reason or drone.telemetry.state.name.lower()

    def reference(self, name: str) -> Vec3:
        """Its reported reference, or its position where it has none. The drone must have sent telemetry."""
        t = self.drones[name].telemetry
        assert t is not None
        return t.position_enu_m if isnan(t.reference_enu_m[0]) else t.reference_enu_m

    def at_goal(self, name: str, goal: np.ndarray) -> bool:
        """True if it holds at `goal`: reference within `join_m`, position within `settle_m`."""
        t = self.drones[name].telemetry
        if t is None or t.state is not DroneState.HOLDING:
            return False
        place = to_vec3(goal)
        off_m = 0.0 if isnan(t.reference_enu_m[0]) else distance(t.reference_enu_m, place)
        return off_m < self._config.join_m and distance(t.position_enu_m, place) < self._config.settle_m

    def stuck(self, name: str, goal: np.ndarray) -> bool:
        """True if it holds away from `goal` although it has been ordered to move."""
        return (
            self.active(name)
            and self.fresh(name)
            and self.state(name) is DroneState.HOLDING
            and distance(self.reference(name), to_vec3(goal)) > self._config.settle_m
        )

    def stationary(self, name: str) -> bool:
        """True if it holds and its speed is below 0.4 m/s."""
        t = self.drones[name].telemetry
        return t is not None and t.state is DroneState.HOLDING and norm(t.velocity_enu_m_s) < 0.4

    def may_be_airborne(self, drone: TrackedDrone) -> bool:
        """True if the drone is lost and may still be in the air.

        Without telemetry it is assumed to descend with at least `descent_m_s`, for `clear_timeout_s` at most.
        """
        t = drone.telemetry
        if (
            not drone.lost
            or t is None
            or self.offboard_left(drone.name)
            or self._state.now - drone.lost_s > self._config.clear_timeout_s
        ):
            return False
        if self.fresh(drone.name) and t.state is not DroneState.LOST:
            return t.state not in ON_GROUND
        ground = min((p[2] for p in self.pads.values()), default=self._mission.pads.center_enu_m[2])
        height = t.position_enu_m[2] - ground
        return t.in_air and self._state.now - drone.lost_s < 3.0 + height / self._config.descent_m_s

    def blocks_landing(self, low: TrackedDrone, high: TrackedDrone) -> bool:
        """True if `low` is below `high`, within the separation: `high` must not land in place before it."""
        if low.telemetry is None or high.telemetry is None:
            return False
        a, b = low.telemetry.position_enu_m, high.telemetry.position_enu_m
        flat = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5
        return flat < self._mission.separation_m and (a[2], low.name) < (b[2], high.name)

    def free_pads(self) -> list[Vec3]:
        """Pads with no lost drone's last position within the separation."""
        pads = list(self.pads.values()) or self._mission.pad_positions(len(self.drones))
        wrecks = [
            d.telemetry.position_enu_m for d in self.drones.values() if d.lost and d.telemetry is not None
        ]
        wide = self._mission.separation_m
        return [p for p in pads if all((p[0] - w[0]) ** 2 + (p[1] - w[1]) ** 2 > wide * wide for w in wrecks)]
