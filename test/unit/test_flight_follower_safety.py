"""What must not bring a follower out of its fence, past a stop, or against a pilot."""

import importlib.util
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest

from chimera_ros.flight.effects import SendAck, SendOrder, SendSetpoint
from chimera_ros.flight.follower.core import FollowerConfig, FollowerCore
from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import AckStatus, CommandKind, DroneState, SwarmCommand, Trajectory
from chimera_ros.flight.trajectory import MotionLimits, straight_legs
from chimera_ros.flight.vehicle import OrderKind, OrderResult

_spec = importlib.util.spec_from_file_location(
    "flight_follower_bench", Path(__file__).with_name("test_flight_follower.py")
)
assert _spec is not None
assert _spec.loader is not None
_bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_bench)
Flight, ENVELOPE = _bench.Flight, _bench.ENVELOPE


@pytest.fixture
def flight() -> Flight:
    made = Flight()
    made.take_off()
    return made


def stop(flight: Flight, level: str) -> list:
    return flight.do(flight.core.on_stop(level, "ann", flight.now, flight.ns))


def reason(flight: Flight) -> str:
    return flight.core.telemetry(flight.now, flight.ns).reason


def test_an_armed_plan_outlives_later_ones() -> None:
    flight = Flight()
    flight.take_off()
    assert flight.trajectory((20.0, 4.0, 12.0), plan_id=1, start_in_s=3.0).status is AckStatus.ACCEPTED
    assert flight.command(CommandKind.FOLLOW, plan_id=1).status is AckStatus.ACCEPTED
    for plan_id in range(2, 9):
        flight.trajectory((0.0, 4.0, 12.0), plan_id=plan_id, start_in_s=3.0)
    flight.step(20.0)
    assert flight.vehicle.position == pytest.approx((20.0, 4.0, 12.0), abs=0.2)


def test_a_plan_that_no_longer_begins_where_the_drone_is_does_not_start(flight: Flight) -> None:
    assert flight.trajectory((30.0, 4.0, 10.0), plan_id=1, start_in_s=0.5).status is AckStatus.ACCEPTED
    assert flight.trajectory((-30.0, 4.0, 10.0), plan_id=2, start_in_s=18.0).status is AckStatus.ACCEPTED
    flight.command(CommandKind.FOLLOW, plan_id=1)
    flight.step(16.0)
    assert flight.command(CommandKind.FOLLOW, plan_id=2).status is AckStatus.ACCEPTED
    flight.step(10.0)
    assert flight.vehicle.position == pytest.approx((30.0, 4.0, 10.0), abs=0.2)
    assert flight.acks[-1].status is AckStatus.FAILED
    assert "begin" in flight.acks[-1].reason


@pytest.mark.parametrize("kind", [CommandKind.GOTO, CommandKind.RETURN])
def test_turning_round_before_the_fence_does_not_swing_out_of_it(flight: Flight, kind: CommandKind) -> None:
    fast = MotionLimits(11.9, 3.0, 3.0, 7.0, 35.0)
    here = flight.core.telemetry(flight.now, flight.ns).reference_enu_m
    knots = straight_legs(np.array([here]), np.array([(59.9, 4.0, 10.0)]), fast)[0]
    assert flight.trajectory((0, 0, 0), knots=tuple(knots)).status is AckStatus.ACCEPTED
    flight.command(CommandKind.FOLLOW, plan_id=7)
    while flight.vehicle.position[0] < 46.0:
        flight.step(0.05)
    assert flight.vehicle.velocity[0] > 11.0
    assert flight.command(kind, target_enu_m=(50.0, 50.0, 10.0)).status is AckStatus.ACCEPTED
    furthest = 0.0
    for _ in range(400):
        flight.step(0.05)
        furthest = max(furthest, flight.vehicle.position[0])
    assert furthest < 60.05  # brakes along its path, which ends at 59.9 m
    assert flight.vehicle.position[0] < 51.0  # it has turned


def test_nothing_leads_out_of_the_fence_at_its_wall() -> None:
    fence = Fence.box((-10, 10), (-10, 10), (1, 20))
    point, velocity, push = fence.contain((11.0, 5.0, 21.0), (3.0, 2.0, 1.0), (1.0, -1.0, 2.0))
    assert point == (10.0, 5.0, 20.0)
    assert velocity == (0.0, 2.0, 0.0)
    assert push == (0.0, -1.0, 0.0)
    assert fence.contain((11.0, 5.0, 5.0), (-3.0, 0.0, 0.0), (0.0, 0.0, 0.0))[1] == (-3.0, 0.0, 0.0)
    inside = ((9.0, 0.0, 5.0), (3.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    assert fence.contain(*inside) == inside


def test_a_drone_that_was_never_steered_gets_no_setpoint_while_it_is_told_to_land(flight: Flight) -> None:
    found = flight.vehicle.state(flight.now)
    core = FollowerCore(FollowerConfig("drone_01", ENVELOPE))
    effects: list = []
    for tick in range(120):  # LAND is never answered
        now = flight.now + 0.05 * tick
        core.on_vehicle(replace(found, stamp_s=now, mode="offboard"), now, flight.ns)
        effects += core.tick(now, flight.ns)
    assert any(isinstance(e, SendOrder) and e.order.kind is OrderKind.LAND for e in effects)
    assert not any(isinstance(e, SendSetpoint) for e in effects)


@pytest.mark.parametrize(("level", "wanted"), [("land", OrderKind.LAND), ("hold", OrderKind.HOLD)])
def test_a_stop_reaches_a_drone_in_the_air_that_this_process_never_took_up(
    flight: Flight, level: str, wanted: OrderKind
) -> None:
    flight.core = FollowerCore(FollowerConfig("drone_01", ENVELOPE))
    flight.vehicle.mode, flight.vehicle._hover = "mission", flight.vehicle.position
    flight.orders.clear()
    flight.step(0.2)
    stop(flight, level)
    assert flight.orders == [wanted]
    flight.step(25.0)
    assert "operator ann" in reason(flight)
    assert flight.vehicle.in_air is (level == "hold")  # and what an operator holds is not landed as an orphan


@pytest.mark.parametrize("level", ["hold", "land"])
def test_a_stop_while_it_arms_keeps_it_on_the_ground(level: str) -> None:
    flight = Flight()
    command = SwarmCommand(1, 1, CommandKind.TAKEOFF, (), (nan, nan, 10.0), deadline_ns=flight.ns + 10**9)
    ordered = flight.core.on_command(command, "leader", flight.now, flight.ns)
    arm = next(e.order for e in ordered if isinstance(e, SendOrder))
    stop(flight, level)
    flight.vehicle.order(arm)
    flight.do(flight.core.on_order_result(OrderResult(arm.order_id, arm.kind, True), flight.now, flight.ns))
    flight.step(15.0)
    assert not flight.vehicle.armed
    assert OrderKind.TAKEOFF not in flight.vehicle.orders
    assert flight.acks[0].status is AckStatus.FAILED
    flight.command_id = 5
    assert "operator ann" in flight.command(CommandKind.TAKEOFF, target_enu_m=(nan, nan, 10.0)).reason


def test_a_stopped_move_is_not_reported_as_completed(flight: Flight) -> None:
    flight.command(CommandKind.GOTO, target_enu_m=(40.0, 4.0, 10.0))
    flight.step(3.0)
    stop(flight, "hold")
    flight.step(6.0)
    assert flight.acks[-1].status is AckStatus.FAILED
    assert flight.acks[-1].reason == "operator ann ordered hold"


def test_an_operators_hold_outlasts_the_leader(flight: Flight) -> None:
    stop(flight, "hold")
    flight.heartbeats = False
    flight.step(40.0)
    assert flight.state is DroneState.HOLDING
    assert reason(flight) == "operator ann ordered hold"


def test_hearing_the_leader_again_does_not_hide_an_operators_stop(flight: Flight) -> None:
    flight.heartbeats = False
    flight.step(3.0)
    stop(flight, "hold")
    flight.heartbeats = True
    flight.step(1.0)
    assert reason(flight) == "operator ann ordered hold"


def test_a_leader_that_was_never_heard_counts_as_lost() -> None:
    flight = Flight()
    flight.core = FollowerCore(FollowerConfig("drone_01", ENVELOPE))
    flight.heartbeats = False
    flight.step(0.2)
    flight.command(CommandKind.TAKEOFF, target_enu_m=(nan, nan, 10.0))
    flight.step(90.0)
    assert flight.state is DroneState.LANDED


def test_a_pilot_who_takes_over_a_landing_is_left_alone(flight: Flight) -> None:
    flight.command(CommandKind.LAND)
    flight.step(2.0)
    flight.vehicle.mode, flight.vehicle._hover = "posctl", flight.vehicle.position
    flight.orders.clear()
    flight.step(20.0)
    assert flight.orders == []
    assert flight.state is DroneState.FAILSAFE
    assert "pilot" in flight.command(CommandKind.LAND).reason


def test_a_pilot_does_not_outrank_an_operator_who_orders_to_land(flight: Flight) -> None:
    stop(flight, "land")
    flight.step(1.0)
    flight.vehicle.mode, flight.vehicle._hover = "posctl", flight.vehicle.position
    flight.step(30.0)
    assert flight.state is DroneState.LANDED


def test_a_failed_kill_is_tried_again() -> None:
    flight = Flight(allow_kill=True)
    flight.take_off()
    flight.vehicle.refuse[OrderKind.KILL] = "busy"
    stop(flight, "kill")
    assert flight.orders.count(OrderKind.KILL) == 3


def test_a_drone_without_position_does_not_take_up_steering(flight: Flight) -> None:
    flight.vehicle.mode, flight.vehicle._hover = "hold", flight.vehicle.position
    flight.step(3.0)
    lost = replace(flight.vehicle.state(flight.now), position_enu_m=(nan, nan, nan))
    flight.core.on_vehicle(lost, flight.now, flight.ns)
    flight.setpoints.clear()
    assert flight.command(CommandKind.HOLD).reason == "the position is not known"
    stop(flight, "hold")
    assert flight.setpoints == []


def test_a_newer_leader_does_not_start_what_an_older_one_had_planned(flight: Flight) -> None:
    flight.trajectory((20.0, 4.0, 12.0), start_in_s=2.0)
    flight.command(CommandKind.FOLLOW, plan_id=7)
    answers = len(flight.acks)
    flight.command(CommandKind.ARM_CHECK, term=2)
    flight.step(5.0)
    assert flight.vehicle.position == pytest.approx((3.0, 4.0, 10.0), abs=0.2)
    assert not any(ack.status is AckStatus.COMPLETED for ack in flight.acks[answers:])
    knots = straight_legs(np.array([(3.0, 4.0, 10.0)]), np.array([(9.0, 4.0, 10.0)]), MotionLimits())[0]
    old = Trajectory(8, 1, "drone_01", flight.ns + 10**9, tuple(knots))
    answer = flight.core.on_trajectory(old, "leader", flight.now, flight.ns)[0]
    assert isinstance(answer, SendAck)
    assert "term 1 is over" in answer.ack.reason
