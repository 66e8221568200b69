"""What must not let a leader's mission go on for ever, or order drones that have no part in it."""

from pathlib import Path

from chimera_ros.flight.effects import SendCommand
from chimera_ros.flight.fallback import restricted
from chimera_ros.flight.leader.core import LeaderConfig, LeaderCore
from chimera_ros.flight.leader.outbox import Outbox
from chimera_ros.flight.leader.state import LeaderState
from chimera_ros.flight.messages import CommandKind, DroneState, DroneTelemetry
from chimera_ros.flight.planning.mission import Mission
from chimera_ros.flight.planning.mission_file import load_mission
from chimera_ros.flight.rehearsal.rehearsal import Rehearsal

MISSIONS = Path(__file__).parents[2] / "config" / "missions"
SECOND_NS = 10**9


def names(count: int) -> list[str]:
    return [f"drone_{i:02d}" for i in range(1, count + 1)]


def swap() -> Mission:
    return load_mission(MISSIONS / "antipodal_swap.yaml")


def all_down(rehearsal: Rehearsal) -> bool:
    return not any(v.in_air or v.armed for v in rehearsal.vehicles.values())


def hold_one(rehearsal: Rehearsal) -> None:
    core = rehearsal.cores["drone_02"]
    rehearsal.apply("drone_02", core.on_stop("hold", "ann", rehearsal.now, rehearsal.swarm_ns))


def test_the_end_lands_a_swarm_that_an_operator_has_stopped() -> None:
    rehearsal = Rehearsal(swap(), names(8), loss=0.05)
    rehearsal.at(28.0, hold_one)
    rehearsal.at(35.0, lambda r: r.core_of_leader.abort_and_land("asked to end", r.now, r.swarm_ns))
    outcome = rehearsal.run(75.0)
    assert rehearsal.core_of_leader.finished
    assert all_down(rehearsal)
    assert outcome.failure == "drone_02 was stopped: operator ann ordered hold."


def test_only_landing_is_taken_while_an_operators_stop_holds() -> None:
    answers: list[tuple[bool, str]] = []
    rehearsal = Rehearsal(swap(), names(5))
    rehearsal.at(28.0, hold_one)
    rehearsal.at(
        32.0,
        lambda r: answers.append(r.core_of_leader.on_submit("- goto: {by_m: [1, 0, 0]}", r.now, r.swarm_ns)),
    )
    rehearsal.run(34.0)
    assert answers == [(False, "drone_02 was stopped by an operator: only a land step is left")]
    assert rehearsal.core_of_leader.phase == "stopped"


def test_a_drone_that_comes_and_goes_does_not_hold_up_the_mission_for_ever() -> None:
    rehearsal = Rehearsal(swap(), names(6))
    for index in range(40):
        rehearsal.at(24.0 + 6.0 * index, lambda r: r.radio_lost.add("drone_03"))
        rehearsal.at(26.5 + 6.0 * index, lambda r: r.radio_lost.discard("drone_03"))
    outcome = rehearsal.run(300.0)
    assert rehearsal.core_of_leader.finished
    assert [e.kind for e in outcome.events].count("found") == 3
    assert outcome.lost == ("drone_03",)


def test_a_leader_that_was_halted_itself_loses_nobody() -> None:
    rehearsal = Rehearsal(swap(), names(6))
    rehearsal.at(28.0, lambda r: setattr(r, "leader", None))
    rehearsal.at(30.5, lambda r: setattr(r, "leader", r.core_of_leader))
    outcome = rehearsal.run()
    assert outcome.completed, outcome.failure
    assert not any(e.kind == "lost" for e in outcome.events)


def test_who_got_lost_is_named() -> None:
    rehearsal = Rehearsal(swap(), names(8))
    rehearsal.at(26.0, lambda r: r.dead.add("drone_06"))
    rehearsal.run_until(lambda r: "drone_06" in r.core_of_leader.lost)
    rehearsal.run_until(lambda r: r.core_of_leader.phase.endswith("again"), rehearsal.now + 30.0)
    later = len(rehearsal.outcome.events)

    def under_way(r: Rehearsal) -> bool:
        standing = r.core_of_leader.phase.endswith("again")
        return not standing and all(
            c.state_at(r.now) is DroneState.FOLLOWING for n, c in r.cores.items() if n not in r.dead
        )

    assert rehearsal.run_until(under_way, 200.0)
    rehearsal.dead.add("drone_02")
    rehearsal.run()
    again = [e.text for e in rehearsal.outcome.events[later:] if e.kind == "replanned"]
    assert any("drone_02 lost" in text for text in again), again


def ready(name: str, stamp_ns: int) -> DroneTelemetry:
    return DroneTelemetry(name, stamp_ns, DroneState.GROUNDED, ready=True, position_enu_m=(0.0, 0.0, 0.0))


def test_a_drone_whose_clock_was_set_back_is_heard_again() -> None:
    leader = LeaderCore(LeaderConfig("leader"), swap(), names(1))
    leader.on_telemetry(ready("drone_01", 9_000 * SECOND_NS), 1.0, 0)
    leader.on_telemetry(ready("drone_01", 8_999 * SECOND_NS), 1.1, 0)  # overtaken on the way
    assert leader.status(1.1)["last_heard_s"] == {"drone_01": 0.1}
    leader.on_telemetry(ready("drone_01", 5_000 * SECOND_NS), 2.0, 0)
    assert leader.status(2.0)["last_heard_s"] == {"drone_01": 0.0}


def test_nobody_is_meant_when_no_drone_is_named() -> None:
    post = Outbox(LeaderConfig("leader"), LeaderState())
    post.command(CommandKind.LAND, [])  # on the wire, no targets would mean every drone
    assert post.collect() == []
    post.command(CommandKind.LAND, ["drone_01"])
    assert [e.command.targets for e in post.collect() if isinstance(e, SendCommand)] == [("drone_01",)]


def test_steps_during_take_off_leave_on_the_ground_who_still_stands_there() -> None:
    answers: list[tuple[bool, str]] = []
    rehearsal = Rehearsal(swap(), names(20))
    text = "- goto: {by_m: [0, 0, 2]}\n- land"

    def submit(r: Rehearsal) -> None:
        answers.append(r.core_of_leader.on_submit(text, r.now, r.swarm_ns))

    def climbing(r: Rehearsal) -> bool:
        states = [c.state_at(r.now) for c in r.cores.values()]
        return DroneState.TAKING_OFF in states and DroneState.ARMED in states

    assert rehearsal.run_until(climbing, 30.0)
    submit(rehearsal)
    standing = [n for n, v in rehearsal.vehicles.items() if not v.in_air]
    assert standing
    assert not rehearsal.run_until(lambda r: any(r.vehicles[n].in_air for n in standing), rehearsal.now + 8.0)
    outcome = rehearsal.run(120.0)
    assert answers[0][0], answers
    assert rehearsal.core_of_leader.finished
    assert all_down(rehearsal)
    assert outcome.min_separation_m >= 1.9


def test_a_pilot_who_takes_over_a_landing_does_not_fail_the_mission() -> None:
    rehearsal = Rehearsal(swap(), names(4))

    def landing(r: Rehearsal) -> bool:
        return (
            r.cores["drone_03"].state_at(r.now) is DroneState.LANDING
            and r.vehicles["drone_03"].position[2] > 2
        )

    assert rehearsal.run_until(landing, 200.0)
    vehicle = rehearsal.vehicles["drone_03"]
    vehicle.mode, vehicle._hover = "posctl", vehicle.position
    orders = len(vehicle.orders)
    outcome = rehearsal.run(rehearsal.now + 60.0)
    assert outcome.completed, outcome.failure
    assert vehicle.orders[orders:] == []


class Degraded(Rehearsal):
    """From `since` on only telemetry, hold, land and return go through, as in fallback."""

    since = 30.0

    @property
    def cut(self) -> bool:
        return self.now >= self.since

    def _deliver_ack(self, ack) -> None:
        if not self.cut:
            super()._deliver_ack(ack)

    def _to_core(self, name: str, method: str, message: object) -> None:
        if not self.cut:
            super()._to_core(name, method, message)
        elif method == "on_command" and (mine := restricted(message, (name,))) is not None:
            super()._to_core(name, method, mine)


def test_a_swarm_that_loses_its_crypto_nodes_comes_home() -> None:
    rehearsal = Degraded(swap(), names(8), loss=0.05)
    rehearsal.at(30.5, lambda r: r.core_of_leader.return_all("no crypto node is heard", r.now, r.swarm_ns))
    outcome = rehearsal.run(200.0)
    assert rehearsal.core_of_leader.finished
    assert all_down(rehearsal)
    assert outcome.failure == "no crypto node is heard."
    assert outcome.min_separation_m > 0.8
    for name, vehicle in rehearsal.vehicles.items():
        home = rehearsal.cores[name].home_enu_m
        assert home is None or abs(vehicle.position[0] - home[0]) + abs(vehicle.position[1] - home[1]) < 1.5


def test_without_any_order_a_degraded_swarm_returns_by_itself() -> None:
    rehearsal = Degraded(swap(), names(4))
    rehearsal.at(30.5, lambda r: setattr(r, "leader", None))
    assert rehearsal.run_until(lambda r: r.now > r.since + 5.0)
    assert all(vehicle.in_air for vehicle in rehearsal.vehicles.values())
    assert rehearsal.run_until(all_down, 200.0)
