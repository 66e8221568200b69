"""What the leader knows of its drones: who takes part, who is lost, who is in the air, and where they are."""

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

_OVERTAKEN_S = 0.5
_FINDS = 3  # a drone that falls silent again and again would have every move repeated for ever ...
_FINDS_S = 120.0  # ... so it stays lost when less than this lies between its losses
_STALL_S = 0.3  # a leader that was not ticked for so long has heard nobody, which is not the drones' silence


class DroneTracker:
    """The drones of one mission as their telemetry shows them."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        names: Sequence[str],
        post: Outbox,
        situation: LeaderState,
    ) -> None:
        self._config, self._mission, self._post, self._situation = config, mission, post, situation
        self.names = tuple(names)
        self.drones = {name: TrackedDrone(name) for name in names}
        self.pads: dict[str, Vec3] = {}
        self._watched_s: float | None = None

    def hear(self, telemetry: DroneTelemetry, now: float) -> None:
        """A drone's telemetry; unknown drones and what was overtaken on the way are ignored."""
        drone = self.drones.get(telemetry.drone)
        if drone is None:
            return
        # Only for so long can one overtake another: later, its clock was set back.
        known = drone.telemetry if now - drone.heard_s < _OVERTAKEN_S else None
        if known is None or telemetry.stamp_ns >= known.stamp_ns:
            drone.telemetry, drone.heard_s = telemetry, now

    @property
    def lost(self) -> tuple[str, ...]:
        """Drones that no longer take part."""
        return tuple(d.name for d in self.drones.values() if d.lost)

    def take_pads(self) -> None:
        """The pads are where the drones stand now."""
        self.pads = {
            d.name: d.telemetry.position_enu_m for d in self.drones.values() if d.telemetry is not None
        }

    def batteries(self, names: Sequence[str]) -> dict[str, float]:
        """Charge of each as a fraction."""
        return {n: t.battery_fraction for n in names if (t := self.drones[n].telemetry) is not None}

    # ---- watching --------------------------------------------------------------------------------

    def watch(self) -> str:
        """Marks drones that fell out of the mission; returns which one an operator has stopped, if any."""
        now = self._situation.now
        stall_s = 0.0 if self._watched_s is None else now - self._watched_s
        self._watched_s = now
        for drone in self.drones.values():
            if stall_s > _STALL_S:
                drone.heard_s = min(drone.heard_s + stall_s, now)
            t = drone.telemetry
            if t is not None and drone.silent:
                self._find(drone, t)
            if t is None or drone.lost:
                continue
            if t.state in FLYING or t.in_air:
                drone.flew = True
            elif drone.down_ordered and t.state in ON_GROUND and not t.armed:
                drone.flew = False
            if not drone.flew:
                continue
            silence = self._situation.now - drone.heard_s
            if silence > self._config.silent_s:
                self._lose(drone, f"not heard for {silence:.1f} s")
                drone.silent, drone.found_s = True, None
                continue
            if t.reason_code is ReasonCode.OPERATOR_STOP:
                drone.down_ordered = True
                if self._situation.stopping:
                    continue
                return drone.name
            if t.state in (DroneState.FAILSAFE, DroneState.LOST) or (
                t.state in (DroneState.RETURNING, DroneState.LANDING, DroneState.LANDED)
                and not drone.down_ordered
            ):
                if drone.odd_since is None:
                    drone.odd_since = self._situation.now
                elif self._situation.now - drone.odd_since > 1.0:
                    self._lose(drone, f"{t.state.name.lower()}: {t.reason or 'its autopilot is silent'}")
            else:
                drone.odd_since = None
        return ""

    def _find(self, drone: TrackedDrone, t: DroneTelemetry) -> None:
        """A drone that was silent only for a while takes part again, at the next move or its repetition."""
        if drone.finds >= _FINDS:
            return
        if self._situation.now - drone.heard_s > 0.5 or t.state not in FLYING:
            drone.found_s = None
        elif drone.found_s is None:
            drone.found_s = self._situation.now
        elif self._situation.now - drone.found_s > 0.5:
            drone.lost, drone.silent = "", False
            drone.finds += 1
            self._post.event("found", f"{drone.name} is heard again and takes part.")

    def _lose(self, drone: TrackedDrone, why: str) -> None:
        if self._situation.now - drone.lost_s > _FINDS_S:
            drone.finds = 0
        drone.lost, drone.lost_s = f"{why}, during {self._situation.phase}", self._situation.now
        self._post.event("lost", f"{drone.name} is lost: {drone.lost}; the others fly on.")
        self._post.forget(drone.name)

    # ---- looking ---------------------------------------------------------------------------------

    def takes_part(self, name: str) -> bool:
        """Not lost."""
        return not self.drones[name].lost

    def heard(self, name: str) -> bool:
        """Its telemetry is fresh."""
        drone = self.drones[name]
        return drone.telemetry is not None and self._situation.now - drone.heard_s <= self._config.silent_s

    def state(self, name: str) -> DroneState:
        """What it last said that it does."""
        t = self.drones[name].telemetry
        return DroneState.UNKNOWN if t is None else t.state

    def reason(self, name: str) -> str:
        """Why it does that, in its own words."""
        t = self.drones[name].telemetry
        return "" if t is None else t.reason

    def reason_code(self, name: str) -> ReasonCode:
        """The newest reported reason code."""
        t = self.drones[name].telemetry
        return ReasonCode.NONE if t is None else t.reason_code

    def airborne(self) -> list[str]:
        """Heard, in the air, and with an autopilot that answers."""
        down = (*ON_GROUND, DroneState.LOST)
        return [n for n in self.names if self.heard(n) and self.state(n) not in down]

    def stopped(self) -> list[str]:
        """Drones in the air that an operator has stopped."""
        return [n for n in self.airborne() if self.reason_code(n) is ReasonCode.OPERATOR_STOP]

    def taken(self, name: str) -> bool:
        """Somebody else flies it: a pilot, or the autopilot by itself."""
        t = self.drones[name].telemetry
        return t is not None and t.state is DroneState.FAILSAFE and t.reason_code is ReasonCode.OFFBOARD_LEFT

    def ready(self, drone: TrackedDrone) -> bool:
        """It could arm."""
        return (
            drone.telemetry is not None
            and drone.telemetry.ready
            and self._situation.now - drone.heard_s < 1.5
        )

    def why_not_ready(self, drone: TrackedDrone) -> str:
        """For sentences."""
        if drone.telemetry is None:
            return "never heard"
        if self._situation.now - drone.heard_s >= 1.5:
            return f"not heard for {self._situation.now - drone.heard_s:.0f} s"
        return drone.telemetry.reason or drone.telemetry.state.name.lower()

    def reference(self, name: str) -> Vec3:
        """Where it is to be by its own steering, else where it is; for drones that were heard."""
        t = self.drones[name].telemetry
        assert t is not None
        return t.position_enu_m if isnan(t.reference_enu_m[0]) else t.reference_enu_m

    def at(self, name: str, goal: np.ndarray) -> bool:
        """It holds at a place."""
        t = self.drones[name].telemetry
        if t is None or t.state is not DroneState.HOLDING:
            return False
        place = to_vec3(goal)
        asked = 0.0 if isnan(t.reference_enu_m[0]) else distance(t.reference_enu_m, place)
        return asked < self._config.join_m and distance(t.position_enu_m, place) < self._config.settle_m

    def stuck(self, name: str, goal: np.ndarray) -> bool:
        """It holds although it should be flying, and not where it is to go."""
        return (
            self.takes_part(name)
            and self.heard(name)
            and self.state(name) is DroneState.HOLDING
            and distance(self.reference(name), to_vec3(goal)) > self._config.settle_m
        )

    def stands(self, name: str) -> bool:
        """It holds and does not move."""
        t = self.drones[name].telemetry
        return t is not None and t.state is DroneState.HOLDING and norm(t.velocity_enu_m_s) < 0.4

    def coming_down(self, drone: TrackedDrone) -> bool:
        """It is lost and may still be in the air."""
        t = drone.telemetry
        if (
            not drone.lost
            or t is None
            or self.taken(drone.name)
            or self._situation.now - drone.lost_s > self._config.clear_s
        ):
            return False
        if self.heard(drone.name) and t.state is not DroneState.LOST:
            return t.state not in ON_GROUND
        ground = min((p[2] for p in self.pads.values()), default=self._mission.pads.center_enu_m[2])
        height = t.position_enu_m[2] - ground
        return t.in_air and self._situation.now - drone.lost_s < 3.0 + height / self._config.fall_m_s

    def below(self, low: TrackedDrone, high: TrackedDrone) -> bool:
        """One is in the way of the other when that lands where it is."""
        if low.telemetry is None or high.telemetry is None:
            return False
        a, b = low.telemetry.position_enu_m, high.telemetry.position_enu_m
        flat = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5
        return flat < self._mission.separation_m and (a[2], low.name) < (b[2], high.name)

    def free_pads(self) -> list[Vec3]:
        """Pads on which nothing lies: no lost drone's last position within the separation."""
        pads = list(self.pads.values()) or self._mission.pad_positions(len(self.drones))
        wrecks = [
            d.telemetry.position_enu_m for d in self.drones.values() if d.lost and d.telemetry is not None
        ]
        wide = self._mission.separation_m
        return [p for p in pads if all((p[0] - w[0]) ** 2 + (p[1] - w[1]) ** 2 > wide * wide for w in wrecks)]
