"""Land detector of the simulated PX4: ground contact that lasts while no climb is commanded."""

from __future__ import annotations

from .mavlink_types import Severity, StateChange
from .vehicle_state import SimulatedState

CONTACT_UNTIL_LANDED_S = 0.7


def update(state: SimulatedState, now: float) -> None:
    """Update `landed`; a vehicle that has landed is no longer flown by the controller."""
    landed = state.landed
    if not state.estimate.contact:
        state.contact_since_s = None
        landed = False
    elif not state.guidance.flying:
        landed = True
    else:
        if state.contact_since_s is None:
            state.contact_since_s = now
        lasted_s = now - state.contact_since_s
        if lasted_s > CONTACT_UNTIL_LANDED_S and state.guidance.commanded_down_m_s > -0.05:
            landed = True
            state.guidance.stop_flying()
    if landed is not state.landed:
        state.landed = landed
        state.landed_since_s = now
        state.report(Severity.INFO, "Landing detected" if landed else "Takeoff detected")
        state.emit(StateChange.VEHICLE_STATUS)
