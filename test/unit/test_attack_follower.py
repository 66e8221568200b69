"""What a captured leader or member can say to a follower core: it answers, and nothing escapes."""

from math import nan

import pytest

from chimera_ros.flight.effects import SendAck
from chimera_ros.flight.follower.core import FollowerConfig, FollowerCore
from chimera_ros.flight.limits import Fence, FlightEnvelope
from chimera_ros.flight.messages import AckStatus, CommandKind, LeaderHeartbeat, SwarmCommand
from chimera_ros.flight.rehearsal.ideal_vehicle import IdealVehicle
from chimera_ros.flight.vehicle import OrderKind

START_NS = 10**18


def flying() -> tuple[FollowerCore, float]:
    """A core that hovers at 10 m, and the time."""
    core = FollowerCore(FollowerConfig("drone_01", FlightEnvelope(Fence.box((-60, 60), (-60, 60), (1, 40)))))
    vehicle, now = IdealVehicle("drone_01", (0.0, 0.0, 0.0)), 0.0
    taken_off = False
    for tick in range(400):
        now += 0.05
        vehicle.step(now, 0.05)
        ns = START_NS + int(now * 1e9)
        effects = core.on_vehicle(vehicle.state(now), now, ns)
        effects += core.on_heartbeat(LeaderHeartbeat("leader", 1, 0, 0), "leader", now, ns)
        if tick == 5:
            start = SwarmCommand(1, 1, CommandKind.TAKEOFF, (), (nan, nan, 10.0), deadline_ns=ns + 10**9)
            effects += core.on_command(start, "leader", now, ns)
        effects += core.tick(now, ns)
        while effects:
            effect = effects.pop(0)
            if hasattr(effect, "setpoint"):
                vehicle.set_setpoint(effect.setpoint, now)
            elif hasattr(effect, "order"):
                result = vehicle.order(effect.order)
                taken_off |= effect.order.kind is OrderKind.TAKEOFF
                effects += core.on_order_result(result, now, ns)
    assert taken_off
    return core, now


def ask(core: FollowerCore, now: float, **fields: object) -> SendAck:
    ns = START_NS + int(now * 1e9)
    values = {"command_id": 2, "term": 1, "targets": (), "deadline_ns": ns + 10**9, **fields}
    return next(
        e for e in core.on_command(SwarmCommand(**values), "leader", now, ns) if isinstance(e, SendAck)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("speed_m_s", [5e-324, 1e-300, 1e-9, 0.01])
def test_a_speed_next_to_nothing_is_refused(speed_m_s: float) -> None:
    core, now = flying()
    ack = ask(core, now, kind=CommandKind.GOTO, target_enu_m=(5.0, 5.0, 10.0), speed_m_s=speed_m_s).ack
    assert ack.status is AckStatus.REFUSED
    assert "below" in ack.reason
    again = ask(core, now, command_id=3, kind=CommandKind.GOTO, target_enu_m=(5.0, 5.0, 10.0), speed_m_s=1.0)
    assert again.ack.status is AckStatus.ACCEPTED


def test_a_forged_heartbeat_ends_no_leaders_term() -> None:
    """Heartbeats are not signed: every member of the epoch could send this one."""
    core, now = flying()
    core.on_heartbeat(LeaderHeartbeat("leader", 2**32 - 1, 0, 0), "leader", now, START_NS + int(now * 1e9))
    ack = ask(core, now, kind=CommandKind.GOTO, target_enu_m=(5.0, 5.0, 10.0), speed_m_s=1.0).ack
    assert ack.status is AckStatus.ACCEPTED
