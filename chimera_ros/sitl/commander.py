"""The simulated PX4 commander of one vehicle: arming, modes, commands, landing detection, failsafes.

Time comes in as simulation seconds. Positions are estimates in world NED metres from the swarm datum.
`origin_m` is the vehicle's own estimator origin there: clients see `position - origin` as local position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import failsafes, flight_modes
from .config import FaultKind, SitlConfig, Vec3
from .controller import Controller
from .dynamics import Fleet
from .geodesy import LocalEarth
from .guidance import SetpointGuidance
from .mavlink_types import (
    FORCE_CODE,
    MODES,
    CommanderEvent,
    FlightMode,
    LandedState,
    MavCommand,
    MavResult,
    Severity,
    StateChange,
    StatusText,
)
from .missions import MissionExecution
from .parameters import Parameters

CONTACT_UNTIL_LANDED_S = 0.7
BAD_ORIGIN_NED_M: Vec3 = (2.0, -1.5, 0.0)
MAX_EVENTS = 64


@dataclass(slots=True)
class VehicleEstimate:
    """What the estimator and the land detector of one vehicle see now (world NED, true contact)."""

    position_m: Vec3
    velocity_m_s: Vec3
    contact: bool
    broken: bool
    battery: float
    motors: bool


@dataclass(frozen=True, slots=True)
class OffboardSetpoint:
    """A streamed set point in world NED; None where the client masked a field out."""

    position_m: tuple[float | None, float | None, float | None]
    velocity_m_s: Vec3 | None
    acceleration_m_s2: Vec3 | None
    yaw_rad: float | None
    yaw_rate_rad_s: float
    stamp_s: float  # when it was made, by the client's clock

    def same_as(self, other: OffboardSetpoint) -> bool:
        """Whether it says what the other said (a client library repeating the last one)."""
        return (self.position_m, self.velocity_m_s, self.acceleration_m_s2, self.yaw_rad) == (
            other.position_m,
            other.velocity_m_s,
            other.acceleration_m_s2,
            other.yaw_rad,
        )


class Commander:
    """One vehicle's commander: commands and set points go in, `events` come out, `update` runs at 25 Hz."""

    def __init__(
        self,
        index: int,
        config: SitlConfig,
        fleet: Fleet,
        controller: Controller,
        earth: LocalEarth,
        origin_m: Vec3,
        estimate_m: Vec3,
    ) -> None:
        self.index = index
        self.system_id = config.first_system_id + index
        self.parameters = Parameters()
        self.parameters.set("MAV_SYS_ID", self.system_id)
        for name, value in config.parameters.items():
            self.parameters.set(name, value)
        self.earth = earth
        self.origin_m = origin_m
        self.reset_counter = 0
        self.local_shift_m = (
            BAD_ORIGIN_NED_M if config.fault_of(index, FaultKind.BAD_ORIGIN) else (0.0, 0.0, 0.0)
        )
        self.guidance = SetpointGuidance(index, controller, self.parameters)
        self.mission = MissionExecution()
        self.mode = FlightMode.HOLD
        self.armed = False
        self.landed = True
        self.crashed = False
        self.failsafe = False
        self.home_m = estimate_m
        self.events: list[CommanderEvent] = []
        self.body = VehicleEstimate(estimate_m, (0.0, 0.0, 0.0), True, False, 1.0, False)
        self.ready = False
        self.return_phase = flight_modes.ReturnPhase.CLIMB
        self.takeoff_down_m = estimate_m[2]
        self.mode_since_s = 0.0
        self.armed_since_s = 0.0
        self.landed_since_s = 0.0
        self._fleet = fleet
        self._controller = controller
        self._ready_at_s = math.inf if config.fault_of(index, FaultKind.NO_GPS) else config.ready_after_s
        jump = config.fault_of(index, FaultKind.ORIGIN_JUMP)
        self._jump_at_s = jump.at_s if jump else math.inf
        self._contact_since_s: float | None = None
        self.setpoint: OffboardSetpoint | None = None
        self.setpoint_s = -math.inf  # when the last one came, repeated or not
        self.gcs_heard_s: float | None = None
        self.link_lost = False
        self.battery_level = 0
        self._flown = False

    # -- what others ask of the state ------------------------------------------------------------------------

    @property
    def landed_state(self) -> LandedState:
        """MAV_LANDED_STATE."""
        if self.landed:
            return LandedState.ON_GROUND
        if self.mode is FlightMode.TAKEOFF:
            return LandedState.TAKEOFF
        if self.mode is FlightMode.LAND or (
            self.mode is FlightMode.RETURN and self.return_phase is flight_modes.ReturnPhase.LAND
        ):
            return LandedState.LANDING
        return LandedState.IN_AIR

    def flying(self) -> bool:
        """Whether the controller flies the vehicle (motors above idle)."""
        return bool(self._controller.flying[self.index])

    def blockers(self) -> list[str]:
        """Why the vehicle cannot be armed now; empty when it can."""
        reasons = []
        if self.crashed:
            reasons.append("vehicle is broken")
        if not self.ready:
            reasons.append("position estimate not ready")
        if self.body.battery < self.parameters["BAT_CRIT_THR"]:
            reasons.append("battery critical")
        return reasons

    def local_m(self, world_m: Vec3) -> Vec3:
        """A world position in the vehicle's own local frame."""
        o, s = self.origin_m, self.local_shift_m
        return world_m[0] - o[0] + s[0], world_m[1] - o[1] + s[1], world_m[2] - o[2] + s[2]

    def world_m(self, local_m: Vec3) -> Vec3:
        """A position in the vehicle's own local frame, in the world frame."""
        o, s = self.origin_m, self.local_shift_m
        return local_m[0] + o[0] - s[0], local_m[1] + o[1] - s[1], local_m[2] + o[2] - s[2]

    def say(self, severity: Severity, text: str) -> None:
        """Queue a text for the clients."""
        self.emit(StatusText(severity, text))

    def emit(self, event: CommanderEvent) -> None:
        """Queue an event for the clients; a client that never listens costs a bounded list."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)

    # -- orders ----------------------------------------------------------------------------------------------

    def command(self, number: int, p: tuple[float, ...], now: float) -> MavResult:
        """Obey a MAV_CMD with its seven parameters (p[4], p[5] in degrees where they are coordinates)."""
        handler = {
            MavCommand.ARM_DISARM: self._arm_disarm,
            MavCommand.TAKEOFF: self._takeoff,
            MavCommand.LAND: lambda p, now: self._airborne_mode(FlightMode.LAND, now),
            MavCommand.RETURN: lambda p, now: self._airborne_mode(FlightMode.RETURN, now),
            MavCommand.LOITER: lambda p, now: self.set_mode(FlightMode.HOLD, now),
            MavCommand.SET_MODE: self._set_mode_command,
            MavCommand.REPOSITION: self._reposition,
            MavCommand.CHANGE_SPEED: self._change_speed,
            MavCommand.SET_HOME: self._set_home,
            MavCommand.TERMINATE: self._terminate,
            MavCommand.MISSION_START: lambda p, now: self.set_mode(FlightMode.MISSION, now),
            MavCommand.RUN_PREARM_CHECKS: lambda p, now: MavResult.ACCEPTED,
        }.get(number)  # type: ignore[call-overload]
        return MavResult.UNSUPPORTED if handler is None else handler(p, now)

    def set_mode(self, mode: FlightMode, now: float) -> MavResult:
        """Change the flight mode if it can be flown now."""
        if mode is self.mode and mode is not FlightMode.OFFBOARD:
            return MavResult.ACCEPTED
        if not self.ready:
            self.say(Severity.WARNING, "Mode denied: no position estimate")
            return MavResult.TEMPORARILY_REJECTED
        if mode is FlightMode.OFFBOARD and now - self.setpoint_s > self.parameters["COM_OF_LOSS_T"]:
            self.say(Severity.WARNING, "Offboard denied: no set points")
            return MavResult.TEMPORARILY_REJECTED
        if mode is FlightMode.MISSION and (not self.mission.items or self.mission.finished):
            if not self.mission.items:
                self.say(Severity.WARNING, "Mission denied: no valid mission")
                return MavResult.TEMPORARILY_REJECTED
            self.mission.restart(0)
        self._enter(mode, now)
        return MavResult.ACCEPTED

    def set_point(self, setpoint: OffboardSetpoint, now: float) -> None:
        """Take a streamed set point; it acts in offboard mode and otherwise only proves the stream."""
        previous = self.setpoint
        self.setpoint_s = now
        if previous is not None and setpoint.same_as(previous):
            return  # a repetition must not start the extrapolation again
        self.setpoint = setpoint
        if self.mode is FlightMode.OFFBOARD:
            flight_modes.follow(self, setpoint, previous, now)

    def gcs_heartbeat(self, now: float) -> None:
        """A ground station is alive."""
        self.gcs_heard_s = now
        if self.link_lost:
            self.link_lost = False
            self.say(Severity.INFO, "Data link regained")

    def _enter(self, mode: FlightMode, now: float) -> None:
        self.mode = mode
        self.mode_since_s = now
        self.failsafe = False
        flight_modes.enter(self, now)
        if mode is FlightMode.OFFBOARD and self.setpoint is not None and self.flying():
            flight_modes.follow(self, self.setpoint, None, now)
        self.emit(StateChange.VEHICLE_STATUS)

    def _arm_disarm(self, p: tuple[float, ...], now: float) -> MavResult:
        force = round(p[1]) == FORCE_CODE if math.isfinite(p[1]) else False
        if p[0] == 1.0:
            return self._arm(force, now)
        if p[0] == 0.0:
            if not self.armed:
                return MavResult.ACCEPTED
            if not self.landed and not force:
                self.say(Severity.CRITICAL, "Disarming denied: not landed")
                return MavResult.TEMPORARILY_REJECTED
            if not self.landed:
                self.say(Severity.EMERGENCY, "Motors stopped in flight by command")
            self._disarm(now)
            return MavResult.ACCEPTED
        return MavResult.DENIED

    def _arm(self, force: bool, now: float) -> MavResult:
        if self.armed:
            return MavResult.ACCEPTED
        reasons = self.blockers()
        if self.mode in (FlightMode.RETURN, FlightMode.LAND):
            reasons.append(f"mode {self.mode.name.lower()} cannot be armed in")
        if self.mode is FlightMode.OFFBOARD and now - self.setpoint_s > self.parameters["COM_OF_LOSS_T"]:
            reasons.append("no offboard set points")
        if self.crashed or (reasons and not force):
            self.say(Severity.CRITICAL, f"Arming denied: {reasons[0]}")
            return MavResult.TEMPORARILY_REJECTED
        self.armed = True
        self.armed_since_s = self.mode_since_s = now
        self._flown = False
        self._fleet.motors[self.index] = True
        self.home_m = self.body.position_m
        flight_modes.enter(self, now)
        self.say(Severity.INFO, "Armed by external command")
        self.emit(StateChange.VEHICLE_STATUS)
        self.emit(StateChange.HOME_POSITION)
        return MavResult.ACCEPTED

    def _disarm(self, now: float) -> None:
        self.armed = False
        self._fleet.motors[self.index] = False
        self._controller.flying[self.index] = False
        if self.mode is not FlightMode.HOLD:
            self._enter(FlightMode.HOLD, now)
        self.emit(StateChange.VEHICLE_STATUS)

    def _takeoff(self, p: tuple[float, ...], now: float) -> MavResult:
        if not self.ready:
            self.say(Severity.WARNING, "Takeoff denied: no position estimate")
            return MavResult.TEMPORARILY_REJECTED
        if not self.landed:
            self.say(Severity.WARNING, "Takeoff denied: already flying")
            return MavResult.TEMPORARILY_REJECTED
        height = self.parameters["MIS_TAKEOFF_ALT"]
        base_down_m = self.body.position_m[2]
        if math.isfinite(p[6]):
            asked_down_m = self.earth.datum.altitude_amsl_m - p[6]
            height = max(base_down_m - asked_down_m, 0.5)
        self.takeoff_down_m = base_down_m - height
        self._enter(FlightMode.TAKEOFF, now)
        return MavResult.ACCEPTED

    def _airborne_mode(self, mode: FlightMode, now: float) -> MavResult:
        if self.landed and not self.armed:
            return MavResult.ACCEPTED  # PX4 accepts it and has nothing to do
        return self.set_mode(mode, now)

    def _set_mode_command(self, p: tuple[float, ...], now: float) -> MavResult:
        if not (math.isfinite(p[1]) and math.isfinite(p[2])):
            return MavResult.DENIED
        key = (int(p[1]), int(p[2]))
        mode = MODES.get(key, MODES.get((key[0], 0)))
        if mode is None:
            self.say(Severity.WARNING, f"Mode {key[0]}/{key[1]} is not simulated")
            return MavResult.DENIED
        if mode is FlightMode.TAKEOFF and self.mode is not FlightMode.TAKEOFF:
            return self._takeoff((math.nan,) * 7, now)
        if mode in (FlightMode.LAND, FlightMode.RETURN) and self.landed and not self.armed:
            return MavResult.ACCEPTED
        return self.set_mode(mode, now)

    def _reposition(self, p: tuple[float, ...], now: float) -> MavResult:
        if self.landed or not self.armed:
            self.say(Severity.WARNING, "Reposition denied: not flying")
            return MavResult.TEMPORARILY_REJECTED
        here = self.body.position_m
        north, east, down = (
            here[0],
            here[1],
            self.guidance.target_m[2] if self.mode is FlightMode.HOLD else here[2],
        )
        if math.isfinite(p[4]) and math.isfinite(p[5]):
            if abs(p[4]) > 90.0 or abs(p[5]) > 180.0:
                return MavResult.DENIED
            north, east, _ = self.earth.to_ned(p[4], p[5], 0.0)
        if math.isfinite(p[6]):
            down = self.earth.datum.altitude_amsl_m - p[6]
        if math.hypot(north - here[0], east - here[1]) > 10_000.0:
            self.say(Severity.WARNING, "Reposition denied: more than 10 km away")
            return MavResult.DENIED
        if self.mode is not FlightMode.HOLD:
            self._enter(FlightMode.HOLD, now)
        speed = p[0] if math.isfinite(p[0]) and p[0] > 0.0 else None
        self.guidance.go((north, east, down), now, speed)
        if math.isfinite(p[3]):
            self.guidance.face(p[3])
        return MavResult.ACCEPTED

    def _change_speed(self, p: tuple[float, ...], now: float) -> MavResult:
        if not math.isfinite(p[1]) or p[1] <= 0.0:
            return MavResult.DENIED
        self.mission.speed_m_s = min(p[1], self.parameters["MPC_XY_VEL_MAX"])
        self._controller.speed_xy_m_s[self.index] = self.mission.speed_m_s
        return MavResult.ACCEPTED

    def _set_home(self, p: tuple[float, ...], now: float) -> MavResult:
        if p[0] == 1.0:
            self.home_m = self.body.position_m
        elif all(math.isfinite(v) for v in p[4:7]) and abs(p[4]) <= 90.0 and abs(p[5]) <= 180.0:
            self.home_m = self.earth.to_ned(p[4], p[5], p[6])
        else:
            return MavResult.DENIED
        self.emit(StateChange.HOME_POSITION)
        return MavResult.ACCEPTED

    def _terminate(self, p: tuple[float, ...], now: float) -> MavResult:
        if p[0] > 0.5 and self.armed:
            self.say(Severity.EMERGENCY, "Flight terminated by command")
            self._disarm(now)
        return MavResult.ACCEPTED

    # -- the 25 Hz cycle -------------------------------------------------------------------------------------

    def update(self, body: VehicleEstimate, now: float) -> None:
        """Look at the vehicle and do what its mode and its failsafes ask for."""
        self.body = body
        if not self.ready and now >= self._ready_at_s:
            self.ready = True
            self.home_m = body.position_m
            self.emit(StateChange.VEHICLE_STATUS)
            self.emit(StateChange.HOME_POSITION)
            self.emit(StateChange.EKF_ORIGIN)
        if now >= self._jump_at_s:
            self._jump_at_s = math.inf
            self._move_origin()
        if body.broken and not self.crashed:
            self.crashed = True
            self.say(Severity.EMERGENCY, "Crash detected: motors stopped")
        if self.armed and not body.motors:
            self._disarm(now)
        self._detect_landing(now)
        if not self.armed:
            return
        if not self.landed:
            failsafes.guard(self, now)
        flight_modes.run(self, now)
        self._disarm_when_idle(now)

    def begin_flight(self) -> None:
        """Leave the ground: from now on the controller flies."""
        self._controller.start(self.index, self._fleet)
        self._contact_since_s = None
        self._flown = True

    def finish_mode(self, mode: FlightMode, now: float) -> None:
        """Change mode by the autopilot's own decision."""
        self._enter(mode, now)

    def stop_motors(self, now: float) -> None:
        """Disarm wherever the vehicle is."""
        self._disarm(now)

    def _move_origin(self) -> None:
        o = self.origin_m
        self.origin_m = (o[0] + 3.0, o[1] - 2.0, o[2] + 0.5)
        self.reset_counter = (self.reset_counter + 1) % 256
        self.emit(StateChange.EKF_ORIGIN)
        self.emit(StateChange.HOME_POSITION)
        self.say(Severity.WARNING, "Estimator origin changed")

    def _detect_landing(self, now: float) -> None:
        landed = self.landed
        if not self.body.contact:
            self._contact_since_s = None
            landed = False
        elif not self.flying():
            landed = True
        else:
            if self._contact_since_s is None:
                self._contact_since_s = now
            if now - self._contact_since_s > CONTACT_UNTIL_LANDED_S and self.guidance.wanted_down_m_s > -0.05:
                landed = True
                self._controller.flying[self.index] = False
        if landed is not self.landed:
            self.landed = landed
            self.landed_since_s = now
            if landed:
                self.say(Severity.INFO, "Landing detected")
            else:
                self.say(Severity.INFO, "Takeoff detected")
            self.emit(StateChange.VEHICLE_STATUS)

    def _disarm_when_idle(self, now: float) -> None:
        if not self.landed or not self.armed or self.flying():
            return
        wait = self.parameters["COM_DISARM_LAND" if self._flown else "COM_DISARM_PRFLT"]
        since = max(self.landed_since_s if self._flown else self.armed_since_s, self.armed_since_s)
        if wait >= 0.0 and now - since > wait:
            self.say(
                Severity.INFO,
                "Disarmed by auto disarm after landing" if self._flown else "Auto disarmed: idle",
            )
            self._disarm(now)
