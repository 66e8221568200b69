"""Arming checks, arming and disarming of the simulated PX4."""

from __future__ import annotations

from . import flight_modes
from .mavlink_types import FlightMode, MavResult, Severity, StateChange
from .vehicle_state import SimulatedState


def failed_checks(state: SimulatedState) -> list[str]:
    """Arming checks that fail now, whatever the flight mode."""
    failed = []
    if state.crashed:
        failed.append("vehicle is broken")
    if not state.ready:
        failed.append("position estimate not ready")
    if state.estimate.battery < state.parameters["BAT_CRIT_THR"]:
        failed.append("battery critical")
    return failed


def arm(state: SimulatedState, force: bool, now: float) -> MavResult:
    """Start the motors and set home, if the checks pass; `force` skips all checks but that for a crash."""
    if state.armed:
        return MavResult.ACCEPTED
    failed = failed_checks(state)
    if state.mode in (FlightMode.RETURN, FlightMode.LAND):
        failed.append(f"mode {state.mode.name.lower()} cannot be armed in")
    if state.mode is FlightMode.OFFBOARD and state.setpoints_lost(now):
        failed.append("no offboard set points")
    if state.crashed or (failed and not force):
        state.report(Severity.CRITICAL, f"Arming denied: {failed[0]}")
        return MavResult.TEMPORARILY_REJECTED
    state.armed = True
    state.armed_since_s = now
    state.flown = False
    state.guidance.start_motors()
    state.home_m = state.estimate.position_m
    flight_modes.first_setpoint(state, now)
    state.report(Severity.INFO, "Armed by external command")
    state.emit(StateChange.VEHICLE_STATUS)
    state.emit(StateChange.HOME_POSITION)
    return MavResult.ACCEPTED


def disarm(state: SimulatedState, now: float) -> None:
    """Stop the motors, also in flight, and leave the vehicle in hold mode."""
    state.armed = False
    state.guidance.stop_motors()
    if state.mode is not FlightMode.HOLD:
        flight_modes.enter(state, FlightMode.HOLD, now)
    state.emit(StateChange.VEHICLE_STATUS)


def disarm_when_idle(state: SimulatedState, now: float) -> None:
    """Disarm COM_DISARM_LAND after landing, or COM_DISARM_PRFLT after arming without take-off."""
    if not state.landed or not state.armed or state.guidance.flying:
        return
    wait = state.parameters["COM_DISARM_LAND" if state.flown else "COM_DISARM_PRFLT"]
    since = max(state.landed_since_s if state.flown else state.armed_since_s, state.armed_since_s)
    if wait >= 0.0 and now - since > wait:
        state.report(
            Severity.INFO,
            "Disarmed by auto disarm after landing" if state.flown else "Auto disarmed: idle",
        )
        disarm(state, now)
