"""One follower core against its rules: terms, ids, deadlines, envelope, losses and stops."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.effects import SendAck, SendOrder, SendSetpoint
from chimera_ros.flight.follower.core import FollowerConfig, FollowerCore
from chimera_ros.flight.limits import Fence, FlightEnvelope
from chimera_ros.flight.messages import (
    AckStatus,
    CommandKind,
    DroneState,
    DroneTelemetry,
    LeaderHeartbeat,
    ReasonCode,
    SwarmCommand,
    Trajectory,
)
from chimera_ros.flight.rehearsal.ideal_vehicle import IdealVehicle
from chimera_ros.flight.trajectory import MotionLimits, straight_legs
from chimera_ros.flight.vehicle import OrderKind

START_NS = 10**18
ENVELOPE = FlightEnvelope(Fence.box((-60, 60), (-60, 60), (1, 40)))


class Flight:
    """One core with an ideal vehicle, stepped at 20 Hz; the leader's heartbeat can be switched off."""

    def __init__(self, **config: object) -> None:
        self.core = FollowerCore(FollowerConfig("drone_01", ENVELOPE, **config))  # type: ignore[arg-type]
        self.vehicle = IdealVehicle("drone_01", (3.0, 4.0, 0.0))
        self.now, self.command_id, self.heartbeats = 0.0, 0, True
        self.acks: list = []
        self.orders: list[OrderKind] = []
        self.setpoints: list = []
        self.step(0.2)

    @property
    def ns(self) -> int:
        return START_NS + int(self.now * 1e9)

    def do(self, effects: list) -> list:
        for effect in effects:
            if isinstance(effect, SendAck):
                self.acks.append(effect.ack)
            elif isinstance(effect, SendSetpoint):
                self.setpoints.append((self.now, effect.setpoint))
                self.vehicle.set_setpoint(effect.setpoint, self.now)
            elif isinstance(effect, SendOrder):
                self.orders.append(effect.order.kind)
                if self.vehicle.alive:
                    result = self.vehicle.order(effect.order)
                    self.do(self.core.on_order_result(result, self.now, self.ns))
        return effects

    def step(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.vehicle.step(self.now, 0.05)
            if self.vehicle.alive:
                self.do(self.core.on_vehicle(self.vehicle.state(self.now), self.now, self.ns))
            if self.heartbeats:
                self.do(
                    self.core.on_heartbeat(LeaderHeartbeat("leader", 1, 0, 0), "leader", self.now, self.ns)
                )
            self.do(self.core.tick(self.now, self.ns))

    def command(self, kind: CommandKind, **fields: object) -> object:
        self.command_id += 1
        values = {"command_id": self.command_id, "term": 1, "deadline_ns": self.ns + 10**9, **fields}
        self.do(self.core.on_command(SwarmCommand(kind=kind, **values), "leader", self.now, self.ns))  # type: ignore[arg-type]
        return self.acks[-1]

    def take_off(self) -> None:
        assert self.command(CommandKind.TAKEOFF, target_enu_m=(nan, nan, 10.0)).status is AckStatus.ACCEPTED
        self.step(15.0)
        assert self.state is DroneState.HOLDING

    def trajectory(self, goal: tuple, plan_id: int = 7, start_in_s: float = 1.0, **fields: object) -> object:
        here = self.core.telemetry(self.now, self.ns).reference_enu_m
        knots = straight_legs(np.array([here]), np.array([goal]), MotionLimits())[0]
        values = {
            "plan_id": plan_id,
            "term": 1,
            "drone": "drone_01",
            "start_ns": self.ns + int(start_in_s * 1e9),
        }
        values = {**values, "knots": tuple(knots), **fields}
        self.do(self.core.on_trajectory(Trajectory(**values), "leader", self.now, self.ns))  # type: ignore[arg-type]
        return self.acks[-1]

    @property
    def state(self) -> DroneState:
        return self.core.state_at(self.now)


@pytest.fixture
def flight() -> Flight:
    made = Flight()
    made.take_off()
    return made


def test_takeoff_arms_climbs_engages_and_completes() -> None:
    flight = Flight()
    assert flight.core.telemetry(flight.now, flight.ns).ready
    flight.take_off()
    assert flight.orders == [OrderKind.ARM, OrderKind.TAKEOFF, OrderKind.START_OFFBOARD]
    assert flight.acks[-1].status is AckStatus.COMPLETED
    assert flight.vehicle.position == pytest.approx((3.0, 4.0, 10.0), abs=0.1)
    flight.command(CommandKind.LAND)
    flight.step(30.0)
    assert flight.state is DroneState.LANDED
    assert flight.acks[-1].status is AckStatus.COMPLETED


def test_not_ready_is_refused_with_the_reason() -> None:
    flight = Flight()
    flight.core.set_blockers(["clock offset not measured"])
    ack = flight.command(CommandKind.TAKEOFF, target_enu_m=(0, 0, 10.0))
    assert ack.status is AckStatus.REFUSED
    assert "clock offset not measured" in ack.reason
    assert flight.orders == []


def test_a_duplicate_gets_the_same_answer_and_is_not_done_twice(flight: Flight) -> None:
    command = SwarmCommand(50, 1, CommandKind.GOTO, (), (20.0, 0.0, 12.0), deadline_ns=flight.ns + 10**9)
    first = flight.do(flight.core.on_command(command, "leader", flight.now, flight.ns))
    second = flight.do(flight.core.on_command(command, "leader", flight.now + 9, flight.ns + 9 * 10**9))
    assert first == second  # after the deadline, too: the answer was lost, not the command


def test_old_terms_expired_and_overtaken_commands_are_refused(flight: Flight) -> None:
    assert "expired" in flight.command(CommandKind.HOLD, deadline_ns=flight.ns - 1).reason
    assert flight.command(CommandKind.HOLD, command_id=100).status is AckStatus.ACCEPTED
    assert (
        "newer command 100" in flight.command(CommandKind.GOTO, target_enu_m=(0, 0, 9), command_id=99).reason
    )
    assert flight.command(CommandKind.HOLD, term=2, command_id=1).status is AckStatus.ACCEPTED
    assert "term 1 is over" in flight.command(CommandKind.HOLD, term=1, command_id=101).reason


def test_commands_for_others_are_none_of_its_business(flight: Flight) -> None:
    command = SwarmCommand(60, 1, CommandKind.LAND, ("drone_02",), deadline_ns=flight.ns + 10**9)
    assert flight.core.on_command(command, "leader", flight.now, flight.ns) == []
    assert flight.state is DroneState.HOLDING


@pytest.mark.parametrize(
    "target", [(100.0, 0.0, 10.0), (0.0, 0.0, 50.0), (0.0, 0.0, 0.2), (nan, 0.0, 10.0), (inf, 0.0, 1.0)]
)
def test_no_leader_sends_it_out_of_its_envelope(flight: Flight, target: tuple) -> None:
    assert flight.command(CommandKind.GOTO, target_enu_m=target).status is AckStatus.REFUSED
    flight.step(3.0)
    assert flight.vehicle.position == pytest.approx((3.0, 4.0, 10.0), abs=0.2)


def test_a_plan_is_flown_only_after_follow_and_from_its_start_time(flight: Flight) -> None:
    assert flight.trajectory((20.0, 4.0, 12.0)).status is AckStatus.ACCEPTED
    flight.step(2.0)
    assert flight.state is DroneState.HOLDING  # no FOLLOW, no flight
    assert flight.trajectory((20.0, 4.0, 12.0), plan_id=8).status is AckStatus.ACCEPTED
    assert flight.command(CommandKind.FOLLOW, plan_id=8).status is AckStatus.ACCEPTED
    flight.step(0.8)
    assert flight.vehicle.position == pytest.approx((3.0, 4.0, 10.0), abs=0.2)
    flight.step(12.0)
    assert flight.vehicle.position == pytest.approx((20.0, 4.0, 12.0), abs=0.2)
    assert flight.acks[-1].status is AckStatus.COMPLETED
    assert flight.core.telemetry(flight.now, flight.ns).plan_id == 8


def test_bad_plans_are_refused_and_change_nothing(flight: Flight) -> None:
    assert "fence" in flight.trajectory((90.0, 4.0, 12.0)).reason
    assert "term 0" in flight.trajectory((9.0, 4.0, 12.0), term=0).reason
    assert "starts" in flight.trajectory((9.0, 4.0, 12.0), start_in_s=-5.0).reason
    far = straight_legs(np.array([(30.0, 0.0, 10.0)]), np.array([(20.0, 0.0, 10.0)]), MotionLimits())[0]
    assert "begins" in flight.trajectory((0, 0, 0), knots=tuple(far)).reason
    assert "knots" in flight.trajectory((0, 0, 0), knots=()).reason
    nans = (replace(far[0], position_enu_m=(nan, 0.0, 0.0)), far[1])
    assert "finite" in flight.trajectory((0, 0, 0), knots=nans).reason
    assert "no accepted plan" in flight.command(CommandKind.FOLLOW, plan_id=7).reason
    late = flight.trajectory((9.0, 4.0, 12.0), plan_id=9, start_in_s=0.1)
    assert late.status is AckStatus.ACCEPTED
    flight.step(1.0)
    assert "started" in flight.command(CommandKind.FOLLOW, plan_id=9).reason


def test_silent_leader_first_holds_then_brings_it_home(flight: Flight) -> None:
    flight.trajectory((40.0, 4.0, 12.0))
    flight.command(CommandKind.FOLLOW, plan_id=7)
    flight.step(4.0)
    assert flight.state is DroneState.FOLLOWING
    flight.heartbeats = False
    flight.step(5.0)
    assert flight.state is DroneState.HOLDING
    assert "no leader" in flight.core.telemetry(flight.now, flight.ns).reason
    held = flight.vehicle.position
    flight.step(5.0)
    assert flight.vehicle.position == pytest.approx(held, abs=0.1)
    flight.step(90.0)
    assert flight.state is DroneState.LANDED
    assert flight.vehicle.position == pytest.approx((3.0, 4.0, 0.0), abs=0.3)


def test_low_battery_returns_critical_battery_lands_here(flight: Flight) -> None:
    flight.command(CommandKind.GOTO, target_enu_m=(30.0, 4.0, 10.0))
    flight.step(15.0)
    flight.vehicle.battery = 0.18
    flight.step(0.2)
    assert flight.state is DroneState.FAILSAFE
    assert "battery" in flight.command(CommandKind.GOTO, target_enu_m=(0, 0, 9)).reason
    flight.vehicle.battery = 0.08
    flight.step(20.0)
    assert flight.state is DroneState.LANDED
    assert flight.vehicle.position[0] > 10.0


def test_operator_hold_is_latched_and_land_still_works(flight: Flight) -> None:
    flight.trajectory((40.0, 4.0, 12.0))
    flight.command(CommandKind.FOLLOW, plan_id=7)
    flight.step(3.0)
    flight.do(flight.core.on_stop("hold", "ann", flight.now, flight.ns))
    flight.step(4.0)
    assert flight.state is DroneState.HOLDING
    assert "operator ann" in flight.command(CommandKind.GOTO, target_enu_m=(0, 0, 9)).reason
    assert flight.command(CommandKind.LAND).status is AckStatus.ACCEPTED
    flight.step(30.0)
    assert flight.state is DroneState.LANDED


def _stop(flight: Flight) -> None:
    flight.do(flight.core.on_stop("hold", "ann", flight.now, flight.ns))


@pytest.mark.parametrize(
    ("disturb", "code"),
    [
        (lambda flight: None, ReasonCode.NONE),
        (_stop, ReasonCode.OPERATOR_STOP),
        (lambda flight: setattr(flight.vehicle, "mode", "posctl"), ReasonCode.OFFBOARD_LEFT),
        (lambda flight: setattr(flight, "heartbeats", False), ReasonCode.LEADER_LOST),
        (lambda flight: setattr(flight.vehicle, "battery", 0.18), ReasonCode.BATTERY_LOW),
        (lambda flight: setattr(flight.vehicle, "battery", 0.08), ReasonCode.BATTERY_CRITICAL),
    ],
)
def test_a_failsafe_is_reported_by_its_code(flight: Flight, disturb: Callable, code: ReasonCode) -> None:
    disturb(flight)
    flight.step(2.0)
    report = flight.core.telemetry(flight.now, flight.ns)
    assert report.reason_code is code
    assert bool(report.reason) is (code is not ReasonCode.NONE)


def test_on_the_ground_the_code_says_why_a_drone_is_not_ready() -> None:
    flight = Flight()
    assert flight.core.telemetry(flight.now, flight.ns).reason_code is ReasonCode.NONE
    flight.core.set_blockers(["waits for the keys of an epoch"])
    assert flight.core.telemetry(flight.now, flight.ns).reason_code is ReasonCode.NOT_READY
    _stop(flight)
    assert flight.core.telemetry(flight.now, flight.ns).reason_code is ReasonCode.OPERATOR_STOP
    refusing = Flight()
    refusing.vehicle.refuse[OrderKind.ARM] = "no"
    refusing.command(CommandKind.TAKEOFF, target_enu_m=(nan, nan, 10.0))
    assert refusing.core.telemetry(refusing.now, refusing.ns).reason_code is ReasonCode.ORDER_FAILED


def test_kill_needs_to_have_been_enabled(flight: Flight) -> None:
    flight.do(flight.core.on_stop("kill", "ann", flight.now, flight.ns))
    flight.step(0.5)
    assert OrderKind.KILL not in flight.orders
    assert flight.state is DroneState.LANDING
    armed = Flight(allow_kill=True)
    armed.take_off()
    armed.do(armed.core.on_stop("kill", "ann", armed.now, armed.ns))
    assert armed.orders[-1] is OrderKind.KILL


def test_a_pilot_who_takes_over_is_left_alone(flight: Flight) -> None:
    flight.vehicle.mode = "posctl"
    flight.step(3.0)
    assert flight.state is DroneState.FAILSAFE
    given = len(flight.setpoints)
    assert "pilot" in flight.command(CommandKind.HOLD).reason
    flight.step(1.0)
    assert len(flight.setpoints) == given


def test_the_autopilots_own_hold_can_be_taken_up_again(flight: Flight) -> None:
    flight.vehicle.mode, flight.vehicle._hover = "hold", flight.vehicle.position
    flight.step(3.0)
    assert flight.state is DroneState.FAILSAFE
    assert flight.command(CommandKind.HOLD).status is AckStatus.ACCEPTED
    flight.step(1.0)
    assert flight.state is DroneState.HOLDING


def test_refused_offboard_lands_after_three_tries() -> None:
    flight = Flight()
    flight.vehicle.refuse[OrderKind.START_OFFBOARD] = "denied"
    flight.command(CommandKind.TAKEOFF, target_enu_m=(0, 0, 10.0))
    flight.step(40.0)
    assert flight.orders.count(OrderKind.START_OFFBOARD) == 3
    assert flight.acks[-1].status is AckStatus.FAILED
    assert flight.state is DroneState.LANDED


def test_silent_autopilot_is_reported_and_told_to_land(flight: Flight) -> None:
    flight.vehicle.alive = False
    flight.step(2.0)
    assert flight.state is DroneState.LOST
    flight.step(5.0)
    assert flight.orders[-1] is OrderKind.LAND


def neighbour(position: tuple, velocity: tuple = (0.0, 0.0, 0.0)) -> DroneTelemetry:
    return DroneTelemetry(
        "drone_02",
        START_NS,
        DroneState.HOLDING,
        in_air=True,
        position_enu_m=position,
        velocity_enu_m_s=velocity,
    )


def test_an_intruder_is_dodged_within_the_fence_and_forgotten_afterwards(flight: Flight) -> None:
    nearest, x = inf, -3.0
    for _ in range(120):
        x += 0.1
        flight.core.on_neighbour(neighbour((x, 4.0, 10.0), (2.0, 0.0, 0.0)), flight.now)
        flight.step(0.05)
        nearest = min(nearest, float(np.linalg.norm(np.array(flight.vehicle.position) - (x, 4.0, 10.0))))
    assert nearest > 0.8  # it would have been hit
    flight.step(8.0)
    assert flight.vehicle.position == pytest.approx((3.0, 4.0, 10.0), abs=0.2)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_avoidance_is_bounded_and_never_leaves_the_fence(offsets: list) -> None:
    flight = Flight()
    flight.take_off()
    flight.command(CommandKind.GOTO, target_enu_m=(58.0, 4.0, 38.5))
    flight.step(40.0)
    for dx, dy, dz in offsets:
        for _ in range(20):
            x, y, z = flight.vehicle.position
            flight.core.on_neighbour(neighbour((x + dx, y + dy, z + dz)), flight.now)
            flight.step(0.05)
            s = flight.setpoints[-1][1].position_enu_m
            assert -60.0 <= s[0] <= 60.0
            assert 1.0 <= s[2] <= 40.0
            assert np.linalg.norm(np.array(s) - (58.0, 4.0, 38.5)) <= 3.01


kinds = st.sampled_from(list(CommandKind))
numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.lists(st.tuples(kinds, st.tuples(numbers, numbers, numbers), numbers, st.integers(0, 40)), max_size=12)
)
@settings(max_examples=40, deadline=None)
def test_whatever_a_valid_leader_says_setpoints_stay_inside_the_fence(commands: list) -> None:
    flight = Flight()
    flight.take_off()
    for kind, target, speed, ticks in commands:
        flight.command(kind, target_enu_m=target, speed_m_s=speed)
        flight.step(ticks * 0.05)
    for _, setpoint in flight.setpoints:
        x, y, z = setpoint.position_enu_m
        assert -60.0 <= x <= 60.0
        assert -60.0 <= y <= 60.0
        assert 0.0 <= z <= 40.0


def test_a_core_restarted_in_flight_says_so_and_can_land(flight: Flight) -> None:
    flight.core = FollowerCore(FollowerConfig("drone_01", ENVELOPE))
    flight.vehicle.mode, flight.vehicle._hover = "hold", flight.vehicle.position
    flight.step(0.5)
    report = flight.core.telemetry(flight.now, flight.ns)
    assert report.state is DroneState.FAILSAFE
    assert not report.ready
    assert "not controlled by this follower" in report.reason
    assert flight.command(CommandKind.TAKEOFF, target_enu_m=(0, 0, 10.0)).status is AckStatus.REFUSED
    assert flight.command(CommandKind.HOLD).status is AckStatus.REFUSED
    assert flight.command(CommandKind.LAND).status is AckStatus.ACCEPTED
    flight.step(30.0)
    assert flight.state is DroneState.LANDED


@pytest.mark.parametrize(("mode", "lands"), [("hold", True), ("takeoff", True), ("posctl", False)])
def test_a_drone_found_hovering_is_landed_unless_a_pilot_flies_it(
    flight: Flight, mode: str, lands: bool
) -> None:
    found = flight.vehicle.state(flight.now)
    core = FollowerCore(FollowerConfig("drone_01", ENVELOPE))
    orders = []
    for tick in range(100):
        now = flight.now + 0.05 * tick
        core.on_vehicle(replace(found, stamp_s=now, mode=mode, in_air=True), now, flight.ns)
        orders += [e.order.kind for e in core.tick(now, flight.ns) if isinstance(e, SendOrder)]
    assert (OrderKind.LAND in orders) is lands
