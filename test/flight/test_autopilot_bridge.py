"""The bridge against the embedded SITL: real MAVLink, real MAVSDK, loopback."""

from __future__ import annotations

import contextlib
import json
import math
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from chimera_ros.autopilot.bridge import Bridge, VehicleConfig
from chimera_ros.autopilot.connect import PortBusy
from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.flight.datum import Datum
from chimera_ros.flight.vehicle import Order, OrderKind, OrderResult, Setpoint, Vec3

DATUM = Datum(47.397742, 8.545594, 488.0)
HEIGHT_M = 4.0


def free_ports(count: int) -> int:
    """First of `count` UDP ports in a row that nobody uses (and whose partners 1000 higher are free too)."""
    for first in range(20000, 30000, 50):
        try:
            with contextlib.ExitStack() as stack:
                for port in [*range(first, first + count), *range(first + 1000, first + 1000 + count)]:
                    s = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise AssertionError("no free UDP ports")


class Field:
    """A simulator, a bridge, and a thread that ticks the bridge at 20 Hz as a node would."""

    def __init__(self, count: int, folder: Path, sitl: Sequence[str] = ()) -> None:
        self.count, self.port = count, free_ports(count)
        self.tracks = folder / "tracks.jsonl"
        self._log = (folder / "sitl.log").open("w+")
        self._faults = list(sitl)
        self.start_simulator(seed=3)
        self.results: queue.Queue[tuple[str, OrderResult]] = queue.Queue()
        self.bridge: Bridge | None = None
        self.paths: dict[str, Callable[[float], Setpoint]] = {}
        self._order_id = 0
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def start_simulator(self, seed: int) -> None:
        command = ["--drones", str(self.count), "--first-port", str(self.port), "--gcs-port", "0"]
        command += ["--seed", str(seed), "--tracks", str(self.tracks), *self._faults]
        command += ["--datum", f"{DATUM.latitude_deg},{DATUM.longitude_deg},{DATUM.altitude_amsl_m}"]
        self.sitl = subprocess.Popen(
            [sys.executable, "-m", "chimera_ros.sitl.main", *command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def vehicle(self, n: int, **changes: object) -> VehicleConfig:
        fields: dict[str, object] = {
            "drone": f"drone_{n:02d}",
            "url": f"udpin://127.0.0.1:{self.port + n - 1}",
            "system_id": n,
            "kind": AutopilotKind.EMBEDDED,
            "allow_arm": True,
        }
        return VehicleConfig(**(fields | changes))  # type: ignore[arg-type]

    def connect(self, vehicles: Sequence[VehicleConfig] | None = None, ticking: bool = True) -> Bridge:
        fleet = [self.vehicle(n + 1) for n in range(self.count)] if vehicles is None else vehicles
        self.bridge = Bridge(fleet, DATUM, time.monotonic, lambda drone, r: self.results.put((drone, r)))
        self.bridge.start()
        if ticking:
            self._ticker.start()
        return self.bridge

    def _tick(self) -> None:
        while not self._stop.wait(0.05):
            now = time.monotonic()
            assert self.bridge is not None
            for drone, path in list(self.paths.items()):
                self.bridge.setpoint(drone, path(now))
            self.bridge.tick(now)

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str | Callable[[], object]) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert self.sitl.poll() is None, self.simulator_said()
            assert time.monotonic() < until, what if isinstance(what, str) else what()
            time.sleep(0.02)

    def simulator_said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def ready(self, *drones: str, timeout_s: float = 20.0) -> None:
        bridge = self.bridge
        assert bridge is not None
        self.wait(
            lambda: not any(bridge.state(d).blockers for d in drones),
            timeout_s,
            lambda: [bridge.state(d).blockers for d in drones],
        )

    def order(self, drone: str, kind: OrderKind, height_m: float = 0.0, deadline_s: float = 5.0) -> int:
        assert self.bridge is not None
        self._order_id += 1
        self.bridge.submit(drone, Order(self._order_id, kind, height_m, deadline_s))
        return self._order_id

    def outcomes(self, ids: Sequence[int], timeout_s: float = 30.0) -> dict[int, OrderResult]:
        found: dict[int, OrderResult] = {}
        until = time.monotonic() + timeout_s
        while set(found) != set(ids):
            _, result = self.results.get(timeout=max(0.01, until - time.monotonic()))
            assert result.order_id not in found, "an order has two results"
            found[result.order_id] = result
        return found

    def all_ok(self, ids: Sequence[int], timeout_s: float = 30.0) -> None:
        for result in self.outcomes(ids, timeout_s).values():
            assert result.ok, result

    def take_off(self, *drones: str) -> None:
        self.ready(*drones)
        self.all_ok([self.order(d, OrderKind.ARM) for d in drones])
        self.all_ok([self.order(d, OrderKind.TAKEOFF, HEIGHT_M, 20.0) for d in drones])

    def fly_offboard(self, drone: str, path: Callable[[float], Setpoint]) -> None:
        assert self.bridge is not None
        self.paths[drone] = path
        given = self.bridge.counters(drone)["setpoints_given"]
        bridge = self.bridge
        self.wait(lambda: bridge.counters(drone)["setpoints_given"] > given, 5.0, "no setpoint went out")
        self.all_ok([self.order(drone, OrderKind.START_OFFBOARD)])
        self.wait(lambda: bridge.state(drone).offboard, 5.0, "offboard mode was never reported")

    def near(self, drone: str, place: Vec3, within_m: float, timeout_s: float = 20.0) -> None:
        bridge = self.bridge
        assert bridge is not None
        self.wait(
            lambda: math.dist(bridge.state(drone).position_enu_m, place) < within_m,
            timeout_s,
            lambda: f"{drone} is at {bridge.state(drone).position_enu_m}, not at {place}",
        )

    def truth(self) -> list[Vec3]:
        """True positions of all vehicles, ENU metres, as the simulator wrote them last."""
        whole = [line for line in self.tracks.read_text().splitlines() if line.endswith("}")]
        return json.loads(whole[-1])["enu"] if whole else [(math.inf,) * 3] * self.count  # type: ignore[list-item]

    def end(self) -> float:
        self._stop.set()
        if self._ticker.ident is not None:
            self._ticker.join(5.0)
        begun = time.monotonic()
        if self.bridge is not None:
            self.bridge.close()
        took = time.monotonic() - begun
        self.sitl.terminate()
        self.sitl.wait(10.0)
        self._log.close()
        return took


@pytest.fixture
def field(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Field]:
    count, faults = request.param
    made = Field(count, tmp_path, [word for fault in faults for word in ("--fault", fault)])
    yield made
    assert made.end() < 5.0


def still(place: Vec3) -> Callable[[float], Setpoint]:
    return lambda now: Setpoint(place)


@pytest.mark.parametrize("field", [(3, ())], indirect=True)
def test_three_vehicles_from_ground_to_ground(field: Field) -> None:
    bridge = field.connect()
    drones = [f"drone_{n:02d}" for n in (1, 2, 3)]
    pads = {}
    field.ready(*drones)
    for drone in drones:
        state = bridge.state(drone)
        assert state.connected
        assert not state.armed
        assert 0.2 < state.battery_fraction <= 1.0
        assert abs(time.monotonic() - state.stamp_s) < 1.0
        pads[drone] = state.position_enu_m
    # The estimators' origins differ by metres; in `map` the vehicles stand on the grid that they stand on.
    assert [pads[d] for d in drones] == [pytest.approx(p, abs=0.4) for p in ((0, 0, 0), (4, 0, 0), (0, 4, 0))]
    assert bridge.uid("drone_01") != bridge.uid("drone_02")

    refused = field.outcomes([field.order("drone_01", OrderKind.TAKEOFF, HEIGHT_M)])
    assert [r.reason for r in refused.values()] == ["it is not armed"]
    refused = field.outcomes([field.order("drone_01", OrderKind.START_OFFBOARD)])
    assert "setpoint first" in next(iter(refused.values())).reason

    field.take_off(*drones)
    for drone in drones:
        assert bridge.state(drone).in_air
        assert bridge.state(drone).position_enu_m[2] - pads[drone][2] > HEIGHT_M - 0.6
    refused = field.outcomes([field.order("drone_02", OrderKind.DISARM)])
    assert not next(iter(refused.values())).ok  # the autopilot refuses it in the air

    began = time.monotonic()

    def circle(centre: Vec3) -> Callable[[float], Setpoint]:
        def at(now: float) -> Setpoint:
            a, w = 0.8 * (now - began), 0.8
            position = (centre[0] + math.cos(a) - 1.0, centre[1] + math.sin(a), HEIGHT_M)
            return Setpoint(position, (-w * math.sin(a), w * math.cos(a), 0.0), yaw_enu_rad=math.pi / 2)

        return at

    for drone in drones:
        field.fly_offboard(drone, circle(pads[drone]))
    time_to_settle = time.monotonic() + 4.0
    field.wait(lambda: time.monotonic() > time_to_settle, 10.0, "")
    worst = 0.0
    for _ in range(20):
        for drone in drones:
            state, target = bridge.state(drone), circle(pads[drone])(bridge.state(drone).stamp_s)
            worst = max(worst, math.dist(state.position_enu_m, target.position_enu_m))
            assert math.cos(state.yaw_enu_rad - math.pi / 2) > 0.95
        time.sleep(0.05)
    assert worst < 0.6

    # What the bridge says is where the vehicles truly are.
    for drone in drones:
        field.paths[drone] = still((pads[drone][0], pads[drone][1], HEIGHT_M))
        field.near(drone, (pads[drone][0], pads[drone][1], HEIGHT_M), 0.3)
    for n, drone in enumerate(drones):
        target = (pads[drone][0], pads[drone][1], HEIGHT_M)
        field.wait(
            lambda n=n, target=target: math.dist(field.truth()[n], target) < 0.4,
            10.0,
            lambda n=n, target=target: f"told to be at {target}, truly at {field.truth()[n]}",
        )
    field.all_ok([field.order(d, OrderKind.LAND) for d in drones])
    field.paths.clear()
    field.wait(lambda: not any(bridge.state(d).armed for d in drones), 30.0, "never disarmed after landing")
    for drone in drones:
        assert not bridge.state(drone).in_air
        assert math.dist(bridge.state(drone).position_enu_m[:2], pads[drone][:2]) < 0.6
        counters = bridge.counters(drone)
        assert counters["setpoints_given"] > 50
        assert counters["setpoints_degraded"] <= 1
        assert not [name for name in counters if name.startswith("setpoints_refused")]


@pytest.mark.parametrize("field", [(2, ("2:bad_origin",))], indirect=True)
def test_wrong_origin_is_refused_before_arming(field: Field) -> None:
    bridge = field.connect()
    field.ready("drone_01")
    field.wait(
        lambda: any("disagree by" in b for b in bridge.state("drone_02").blockers),
        20.0,
        lambda: bridge.state("drone_02").blockers,
    )
    result = next(iter(field.outcomes([field.order("drone_02", OrderKind.ARM)]).values()))
    assert not result.ok
    assert "its EKF origin is wrong" in result.reason
    assert not bridge.state("drone_02").armed
    field.all_ok([field.order("drone_01", OrderKind.ARM)])


@pytest.mark.parametrize("field", [(3, ("3:silent",))], indirect=True)
def test_wrong_silent_and_unpinned_vehicles_are_named(field: Field) -> None:
    swapped = [
        field.vehicle(1, uid="00ff"),
        field.vehicle(2, system_id=7),
        field.vehicle(3),
    ]
    bridge = field.connect(swapped)

    def says(drone: str, *words: str) -> bool:
        return any(all(w in b for w in words) for b in bridge.state(drone).blockers)

    field.wait(
        lambda: says("drone_02", "pinned to system id 7", "system id 2 answers"),
        10.0,
        lambda: bridge.state("drone_02").blockers,
    )
    field.wait(
        lambda: says("drone_01", "pinned to autopilot 00ff", str(bridge.uid("drone_01"))),
        30.0,
        lambda: bridge.state("drone_01").blockers,
    )
    assert says("drone_03", "drone_03 (system id 3)", "no heartbeat", str(field.port + 2))
    for n, word in ((1, "pinned"), (2, "pinned"), (3, "no heartbeat")):
        result = next(iter(field.outcomes([field.order(f"drone_{n:02d}", OrderKind.ARM)]).values()))
        assert not result.ok
        assert word in result.reason
    bridge.setpoint("drone_03", Setpoint((0.0, 0.0, 5.0)))
    assert bridge.counters("drone_03")["setpoints_refused_not_connected"] == 1


@pytest.mark.parametrize("field", [(1, ())], indirect=True)
@pytest.mark.parametrize("node", ["ticks on", "hangs"])
def test_stale_setpoint_becomes_a_position_hold(field: Field, node: str) -> None:
    """A vehicle that is told to move at 2 m/s stops at the last commanded place when nothing fresh comes."""
    bridge = field.connect()
    field.take_off("drone_01")
    began = time.monotonic()
    start = bridge.state("drone_01").position_enu_m

    def eastward(now: float) -> Setpoint:
        return Setpoint((start[0] + 2.0 * (now - began), start[1], HEIGHT_M), (2.0, 0.0, 0.0))

    field.fly_offboard("drone_01", eastward)
    field.wait(lambda: bridge.state("drone_01").velocity_enu_m_s[0] > 1.5, 20.0, "it did not get going")
    last = eastward(time.monotonic()).position_enu_m
    if node == "hangs":
        field._stop.set()  # no setpoint and no tick any more; the interpreter lives
    else:
        field.paths.clear()
    field.wait(lambda: bridge.counters("drone_01")["setpoints_degraded"] == 1, 20.0, "no hold was given")
    field.near("drone_01", last, 0.5)
    field.wait(lambda: abs(bridge.state("drone_01").velocity_enu_m_s[0]) < 0.2, 20.0, "it still moves")
    for _ in range(20):
        assert math.dist(bridge.state("drone_01").position_enu_m, last) < 0.5
        time.sleep(0.05)
    assert bridge.state("drone_01").offboard


@pytest.mark.parametrize("field", [(1, ("1:origin_jump@14",))], indirect=True)
def test_origin_that_moves_in_flight_is_followed(field: Field) -> None:
    bridge = field.connect()
    field.take_off("drone_01")
    place = (*bridge.state("drone_01").position_enu_m[:2], HEIGHT_M)
    field.fly_offboard("drone_01", still(place))
    field.near("drone_01", place, 0.3)
    field.wait(lambda: bridge.counters("drone_01")["origin_changes"] >= 1, 20.0, "the origin never moved")
    settled = time.monotonic() + 4.0
    field.wait(lambda: time.monotonic() > settled, 10.0, "")
    field.near("drone_01", place, 0.3)
    assert bridge.state("drone_01").blockers == ()


@pytest.mark.parametrize("field", [(1, ("1:freeze@12",))], indirect=True)
def test_orders_to_a_vehicle_that_went_silent_end_in_time(field: Field) -> None:
    bridge = field.connect()
    field.take_off("drone_01")
    field.wait(lambda: time.monotonic() - bridge.state("drone_01").stamp_s > 0.7, 20.0, "it never froze")
    asked = time.monotonic()
    slow = field.order("drone_01", OrderKind.STOP_OFFBOARD, deadline_s=1.0)
    result = field.outcomes([slow])[slow]
    assert not result.ok
    assert time.monotonic() - asked < 5.0
    first, urgent = field.order("drone_01", OrderKind.TAKEOFF, 9.0), field.order("drone_01", OrderKind.LAND)
    both = field.outcomes([first, urgent])
    assert not both[first].ok
    assert not both[urgent].ok
    field.wait(
        lambda: any("heartbeat lost" in b for b in bridge.state("drone_01").blockers),
        30.0,
        lambda: bridge.state("drone_01").blockers,
    )


@pytest.mark.parametrize("field", [(1, ())], indirect=True)
def test_restarted_vehicle_is_asked_again(field: Field) -> None:
    """It has another origin and other streams after its restart; both are asked for without a new bridge."""
    bridge = field.connect()
    field.ready("drone_01")
    before = bridge._links["drone_01"].origin.frame
    field.sitl.terminate()
    field.sitl.wait(10.0)
    until = time.monotonic() + 30.0
    while not any("heartbeat lost" in b for b in bridge.state("drone_01").blockers):
        assert time.monotonic() < until, bridge.state("drone_01").blockers
        time.sleep(0.05)
    field.start_simulator(seed=8)
    field.ready("drone_01")
    after = bridge._links["drone_01"].origin.frame
    assert before is not None
    assert after is not None
    assert math.dist(before.offset_enu_m, after.offset_enu_m) > 0.5
    assert math.dist(bridge.state("drone_01").position_enu_m, (0.0, 0.0, 0.0)) < 0.4
    field.all_ok([field.order("drone_01", OrderKind.ARM)])


@pytest.mark.parametrize("field", [(1, ())], indirect=True)
def test_land_overtakes_takeoff_and_kill_needs_permission(field: Field) -> None:
    bridge = field.connect()
    field.ready("drone_01")
    field.all_ok([field.order("drone_01", OrderKind.ARM)])
    climb = field.order("drone_01", OrderKind.TAKEOFF, 30.0, 60.0)
    field.wait(lambda: bridge.state("drone_01").position_enu_m[2] > 1.0, 15.0, "it does not climb")
    kill = field.order("drone_01", OrderKind.KILL)
    denied = field.outcomes([climb, kill])
    assert denied[climb].reason == "overtaken by kill"
    assert "--allow-kill" in denied[kill].reason
    assert bridge.state("drone_01").armed
    climb, land = field.order("drone_01", OrderKind.HOLD), field.order("drone_01", OrderKind.LAND)
    assert field.outcomes([climb, land])[land].ok
    field.wait(lambda: not bridge.state("drone_01").armed, 30.0, "it did not land")


@pytest.mark.parametrize("field", [(1, ())], indirect=True)
def test_kill_where_it_is_allowed_and_no_motors_without_arm(field: Field) -> None:
    bridge = field.connect([field.vehicle(1, allow_kill=True)])
    field.ready("drone_01")
    field.all_ok([field.order("drone_01", OrderKind.ARM)])
    field.wait(lambda: bridge.state("drone_01").armed, 5.0, "not armed")
    field.all_ok([field.order("drone_01", OrderKind.KILL)])
    field.wait(lambda: not bridge.state("drone_01").armed, 5.0, "still armed")
    bridge.close()
    again = field.connect([field.vehicle(1, allow_arm=False)], ticking=False)
    field.wait(
        lambda: len(b := again.state("drone_01").blockers) == 1 and "--arm" in b[0],
        20.0,
        lambda: again.state("drone_01").blockers,
    )
    result = next(iter(field.outcomes([field.order("drone_01", OrderKind.ARM)]).values()))
    assert "--arm" in result.reason


def test_busy_port_and_second_bridge_are_refused() -> None:
    port = free_ports(2)
    fleet = [VehicleConfig(f"drone_{n}", f"udpin://127.0.0.1:{port + n}", n + 1) for n in range(2)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port + 1))
        with pytest.raises(PortBusy, match=rf"{port + 1}, where drone_1 is expected"):
            Bridge(fleet, DATUM, time.monotonic, lambda d, r: None).start()
    bridge = Bridge(fleet, DATUM, time.monotonic, lambda d, r: None)  # the failed start left nothing behind
    bridge.start()
    with pytest.raises(RuntimeError, match="another autopilot bridge"):
        Bridge(fleet, DATUM, time.monotonic, lambda d, r: None).start()
    bridge.close()
    bridge.close()
    assert bridge.state("drone_0").connected is False
