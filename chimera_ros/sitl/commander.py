"""Commander of the simulated PX4: dispatches commands and setpoints, and runs the 25 Hz update.

The modules arming, flight_modes, failsafes and land_detector change its `SimulatedState`. `now` is simulation
time in seconds; positions are local NED, metres. Not simulated: manual control, attitude setpoints, preflight
calibration.
"""

from __future__ import annotations

import math

from . import arming, failsafes, flight_modes, land_detector
from .config import FaultKind, SitlConfig, Vec3
from .controller import Controller
from .dynamics import Fleet
from .geodesy import LocalEarth
from .guidance import SetpointGuidance
from .mavlink_types import FORCE_CODE, MODES, FlightMode, MavCommand, MavResult, Severity, StateChange
from .parameters import Parameters
from .vehicle_state import OffboardSetpoint, SimulatedState, VehicleEstimate

BAD_ORIGIN_NED_M: Vec3 = (2.0, -1.5, 0.0)
ORIGIN_JUMP_NED_M: Vec3 = (3.0, -2.0, 0.5)
MAX_REPOSITION_M = 10_000.0


class Commander:
    """Commander of one vehicle: takes commands and setpoints, emits `state.events`."""

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
        system_id = config.first_system_id + index
        parameters = Parameters()
        for name, value in {"MAV_SYS_ID": system_id, **config.parameters}.items():
            parameters.set(name, value)
        bad_origin = config.fault_of(index, FaultKind.BAD_ORIGIN)
        self.state = SimulatedState(
            index=index,
            system_id=system_id,
            parameters=parameters,
            earth=earth,
            guidance=SetpointGuidance(index, controller, fleet, parameters),
            estimate=VehicleEstimate(estimate_m, (0.0, 0.0, 0.0), True, False, 1.0, False),
            origin_m=origin_m,
            local_shift_m=BAD_ORIGIN_NED_M if bad_origin else (0.0, 0.0, 0.0),
            home_m=estimate_m,
            takeoff_down_m=estimate_m[2],
        )
        self._ready_at_s = math.inf if config.fault_of(index, FaultKind.NO_GPS) else config.ready_after_s
        jump = config.fault_of(index, FaultKind.ORIGIN_JUMP)
        self._jump_at_s = jump.at_s if jump else math.inf

    def command(self, number: int, p: tuple[float, ...], now: float) -> MavResult:
        """Dispatch a MAV_CMD; p[0] to p[6] are param1 to param7 (coordinates in degrees)."""
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
        """Change the flight mode if its conditions are met; reports the reason if they are not."""
        state = self.state
        if mode is state.mode and mode is not FlightMode.OFFBOARD:
            return MavResult.ACCEPTED
        if not state.ready:
            state.report(Severity.WARNING, "Mode denied: no position estimate")
            return MavResult.TEMPORARILY_REJECTED
        if mode is FlightMode.OFFBOARD and state.setpoints_lost(now):
            state.report(Severity.WARNING, "Offboard denied: no set points")
            return MavResult.TEMPORARILY_REJECTED
        if mode is FlightMode.MISSION and (not state.mission.items or state.mission.finished):
            if not state.mission.items:
                state.report(Severity.WARNING, "Mission denied: no valid mission")
                return MavResult.TEMPORARILY_REJECTED
            state.mission.restart(0)
        flight_modes.enter(state, mode, now)
        return MavResult.ACCEPTED

    def setpoint(self, setpoint: OffboardSetpoint, now: float) -> None:
        """Store a streamed setpoint, and follow it in offboard mode (which is denied without a stream)."""
        state = self.state
        previous = state.setpoint
        state.setpoint_s = now
        if previous is not None and setpoint.repeats(previous):
            return  # a repetition must not restart the extrapolation
        state.setpoint = setpoint
        if state.mode is FlightMode.OFFBOARD:
            flight_modes.follow(state, setpoint, previous, now)

    def gcs_heartbeat(self, now: float) -> None:
        """Note a HEARTBEAT of a ground station, which ends a data link loss."""
        state = self.state
        state.gcs_heartbeat_s = now
        if state.link_lost:
            state.link_lost = False
            state.report(Severity.INFO, "Data link regained")

    def _arm_disarm(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        force = round(p[1]) == FORCE_CODE if math.isfinite(p[1]) else False
        if p[0] == 1.0:
            return arming.arm(state, force, now)
        if p[0] == 0.0:
            if not state.armed:
                return MavResult.ACCEPTED
            if not state.landed and not force:
                state.report(Severity.CRITICAL, "Disarming denied: not landed")
                return MavResult.TEMPORARILY_REJECTED
            if not state.landed:
                state.report(Severity.EMERGENCY, "Motors stopped in flight by command")
            arming.disarm(state, now)
            return MavResult.ACCEPTED
        return MavResult.DENIED

    def _takeoff(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        if not state.ready:
            state.report(Severity.WARNING, "Takeoff denied: no position estimate")
            return MavResult.TEMPORARILY_REJECTED
        if not state.landed:
            state.report(Severity.WARNING, "Takeoff denied: already flying")
            return MavResult.TEMPORARILY_REJECTED
        height = state.parameters["MIS_TAKEOFF_ALT"]
        base_down_m = state.estimate.position_m[2]
        if math.isfinite(p[6]):
            target_down_m = state.earth.datum.altitude_amsl_m - p[6]
            height = max(base_down_m - target_down_m, 0.5)
        state.takeoff_down_m = base_down_m - height
        flight_modes.enter(state, FlightMode.TAKEOFF, now)
        return MavResult.ACCEPTED

    def _airborne_mode(self, mode: FlightMode, now: float) -> MavResult:
        if self.state.landed and not self.state.armed:
            return MavResult.ACCEPTED  # PX4 accepts it and has nothing to do
        return self.set_mode(mode, now)

    def _set_mode_command(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        if not (math.isfinite(p[1]) and math.isfinite(p[2])):
            return MavResult.DENIED
        key = (int(p[1]), int(p[2]))
        mode = MODES.get(key, MODES.get((key[0], 0)))
        if mode is None:
            state.report(Severity.WARNING, f"Mode {key[0]}/{key[1]} is not simulated")
            return MavResult.DENIED
        if mode is FlightMode.TAKEOFF and state.mode is not FlightMode.TAKEOFF:
            return self._takeoff((math.nan,) * 7, now)
        if mode in (FlightMode.LAND, FlightMode.RETURN) and state.landed and not state.armed:
            return MavResult.ACCEPTED
        return self.set_mode(mode, now)

    def _reposition(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        if state.landed or not state.armed:
            state.report(Severity.WARNING, "Reposition denied: not flying")
            return MavResult.TEMPORARILY_REJECTED
        here = state.estimate.position_m
        north, east, down = (
            here[0],
            here[1],
            state.guidance.target_m[2] if state.mode is FlightMode.HOLD else here[2],
        )
        if math.isfinite(p[4]) and math.isfinite(p[5]):
            if abs(p[4]) > 90.0 or abs(p[5]) > 180.0:
                return MavResult.DENIED
            north, east, _ = state.earth.to_ned(p[4], p[5], 0.0)
        if math.isfinite(p[6]):
            down = state.earth.datum.altitude_amsl_m - p[6]
        if math.hypot(north - here[0], east - here[1]) > MAX_REPOSITION_M:
            state.report(Severity.WARNING, "Reposition denied: more than 10 km away")
            return MavResult.DENIED
        if state.mode is not FlightMode.HOLD:
            flight_modes.enter(state, FlightMode.HOLD, now)
        speed = p[0] if math.isfinite(p[0]) and p[0] > 0.0 else None
        state.guidance.go((north, east, down), now, speed)
        if math.isfinite(p[3]):
            state.guidance.face(p[3])
        return MavResult.ACCEPTED

    def _change_speed(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        if not math.isfinite(p[1]) or p[1] <= 0.0:
            return MavResult.DENIED
        state.mission.speed_m_s = min(p[1], state.parameters["MPC_XY_VEL_MAX"])
        state.guidance.limit_speed(state.mission.speed_m_s)
        return MavResult.ACCEPTED

    def _set_home(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        if p[0] == 1.0:
            state.home_m = state.estimate.position_m
        elif all(math.isfinite(v) for v in p[4:7]) and abs(p[4]) <= 90.0 and abs(p[5]) <= 180.0:
            state.home_m = state.earth.to_ned(p[4], p[5], p[6])
        else:
            return MavResult.DENIED
        state.emit(StateChange.HOME_POSITION)
        return MavResult.ACCEPTED

    def _terminate(self, p: tuple[float, ...], now: float) -> MavResult:
        state = self.state
        if p[0] > 0.5 and state.armed:
            state.report(Severity.EMERGENCY, "Flight terminated by command")
            arming.disarm(state, now)
        return MavResult.ACCEPTED

    def update(self, estimate: VehicleEstimate, now: float) -> None:
        """Run one cycle: estimator events, land detector, failsafes, flight mode, auto disarm."""
        state = self.state
        state.estimate = estimate
        if not state.ready and now >= self._ready_at_s:
            state.ready = True
            state.home_m = estimate.position_m
            state.emit(StateChange.VEHICLE_STATUS)
            state.emit(StateChange.HOME_POSITION)
            state.emit(StateChange.EKF_ORIGIN)
        if now >= self._jump_at_s:
            self._jump_at_s = math.inf
            self._move_origin()
        if estimate.crashed and not state.crashed:
            state.crashed = True
            state.report(Severity.EMERGENCY, "Crash detected: motors stopped")
        if state.armed and not estimate.motors:
            arming.disarm(state, now)
        land_detector.update(state, now)
        if not state.armed:
            return
        if not state.landed:
            failsafes.check(state, now)
        flight_modes.run(state, now)
        arming.disarm_when_idle(state, now)

    def _move_origin(self) -> None:
        """Inject the fault origin_jump: move the EKF origin and increment the estimator's reset counter."""
        state = self.state
        o, jump = state.origin_m, ORIGIN_JUMP_NED_M
        state.origin_m = (o[0] + jump[0], o[1] + jump[1], o[2] + jump[2])
        state.reset_counter = (state.reset_counter + 1) % 256
        state.emit(StateChange.EKF_ORIGIN)
        state.emit(StateChange.HOME_POSITION)
        state.report(Severity.WARNING, "Estimator origin changed")
