"""Orders: one at a time, urgent ones overtake, each has exactly one result; what autopilots are told."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mavsdk.plugins.action import ActionError, ActionResult

import chimera_ros.autopilot
from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.autopilot.orders import MAX_WAITING, OrderQueue
from chimera_ros.autopilot.personality import PERSONALITIES, CallFailed, Plugins
from chimera_ros.autopilot.pool import CallPool
from chimera_ros.flight.vehicle import Order, OrderKind

URGENT = (OrderKind.HOLD, OrderKind.LAND, OrderKind.KILL)


def test_one_at_a_time() -> None:
    orders = OrderQueue()
    orders.submit(Order(1, OrderKind.ARM), 0.0)
    orders.submit(Order(2, OrderKind.TAKEOFF, 5.0), 0.0)
    first = orders.next(0.0)
    assert first is not None
    assert first.order.order_id == 1
    assert orders.next(0.0) is None
    assert [r.order_id for r in orders.finish(first, True)] == [1]
    assert orders.finish(first, False, "again") == []
    second = orders.next(1.0)
    assert second is not None
    assert second.order.order_id == 2


@pytest.mark.parametrize("kind", URGENT)
def test_urgent_orders_overtake_what_runs_and_waits(kind: OrderKind) -> None:
    orders = OrderQueue()
    for n in (1, 2, 3):
        orders.submit(Order(n, OrderKind.START_OFFBOARD), 0.0)
    running = orders.next(0.0)
    results = orders.submit(Order(9, kind), 0.1)
    assert sorted(r.order_id for r in results) == [1, 2, 3]
    assert all(not r.ok and r.reason == f"overtaken by {kind.value}" for r in results)
    now_running = orders.next(0.1)
    assert now_running is not None
    assert now_running.order.order_id == 9
    assert running is not None
    assert orders.finish(running, True) == []  # its answer comes too late


def test_nothing_overtakes_a_kill() -> None:
    orders = OrderQueue()
    orders.submit(Order(1, OrderKind.KILL), 0.0)
    kill = orders.next(0.0)
    assert orders.submit(Order(2, OrderKind.HOLD), 0.0) == []
    assert orders.running is kill


def test_urgent_order_is_repeated_when_a_late_call_may_have_undone_it() -> None:
    orders = OrderQueue()
    orders.submit(Order(1, OrderKind.START_OFFBOARD), 0.0)
    late = orders.next(0.0)
    assert late is not None
    orders.submit(Order(2, OrderKind.LAND), 0.1)
    land = orders.next(0.1)
    assert land is not None
    assert not land.repeat
    assert orders.to_repeat_after(late) is None
    assert land.repeat  # its answer is still to come: which of the two was obeyed last nobody knows
    orders.finish(land, True)
    assert orders.to_repeat_after(late) is land
    orders.submit(Order(3, OrderKind.START_OFFBOARD), 5.0)
    orders.next(5.0)
    assert orders.to_repeat_after(late) is None  # somebody wants something else by now


def test_overdue() -> None:
    orders = OrderQueue()
    orders.submit(Order(1, OrderKind.ARM, deadline_s=2.0), 0.0)
    running = orders.next(10.0)
    assert orders.overdue(11.9) is None
    assert orders.overdue(12.1) is running


@given(
    st.lists(st.tuples(st.sampled_from(["submit", "start", "finish", "late"]), st.sampled_from(OrderKind)))
)
def test_every_order_gets_exactly_one_result(script: list[tuple[str, OrderKind]]) -> None:
    orders, given_back, started = OrderQueue(), Counter[int](), []
    submitted = 0
    for step, kind in script:
        results = []
        if step == "submit":
            submitted += 1
            results = orders.submit(Order(submitted, kind), 0.0)
        elif step == "start":
            running = orders.next(0.0)
            started += [running] if running else []
        elif started:
            results = orders.finish(started[-1] if step == "finish" else started[0], True)
        given_back.update(r.order_id for r in results)
        assert len(orders._waiting) <= MAX_WAITING + 1
    given_back.update(r.order_id for r in orders.drop_all("closed"))
    assert given_back == Counter(range(1, submitted + 1))


class Recorder:
    """Stands for any MAVSDK plugin; notes the calls and fails where told to."""

    def __init__(self, calls: list[tuple[Any, ...]], failing: tuple[str, ...] = ()) -> None:
        self._calls, self._failing = calls, failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name == "send_command":
                fields = json.loads(arguments[0].fields_json)
                self._calls.append(
                    (name, fields["command"], fields["param1"], fields["param2"], fields["param7"])
                )
                return SimpleNamespace(fields_json=json.dumps({"result": 2 if name in self._failing else 0}))
            self._calls.append((name, *arguments))
            if name in self._failing:
                raise ActionError(ActionResult.COMMAND_DENIED, name)
            return None

        return call


def plugins(failing: tuple[str, ...] = ()) -> tuple[Plugins, list[tuple[Any, ...]]]:
    calls: list[tuple[Any, ...]] = []
    recorder = Recorder(calls, failing)
    return Plugins(3, recorder, recorder, recorder, recorder, recorder), calls


@pytest.mark.parametrize(
    ("kind", "order", "expected"),
    [
        (AutopilotKind.PX4, Order(1, OrderKind.ARM), [("arm",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.TAKEOFF, 7.0), [("set_takeoff_altitude", 7.0), ("takeoff",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.HOLD), [("hold",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.LAND), [("land",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.DISARM), [("disarm",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.START_OFFBOARD), [("start",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.STOP_OFFBOARD), [("stop",)]),
        (AutopilotKind.PX4, Order(1, OrderKind.KILL), [("kill",)]),
        (AutopilotKind.ARDUPILOT, Order(1, OrderKind.ARM), [("send_command", 176, 1, 4, 0.0), ("arm",)]),
        (
            AutopilotKind.ARDUPILOT,
            Order(1, OrderKind.TAKEOFF, 7.0),
            [("send_command", 176, 1, 4, 0.0), ("send_command", 22, 0.0, 0.0, 7.0)],
        ),
    ],
)
def test_what_the_autopilot_is_told(
    kind: AutopilotKind, order: Order, expected: list[tuple[Any, ...]]
) -> None:
    handles, calls = plugins()
    PERSONALITIES[kind]().execute(handles, order)
    assert calls == expected


def test_refusals_are_sentences() -> None:
    handles, _ = plugins(failing=("arm",))
    with pytest.raises(CallFailed, match="the autopilot refused it"):
        PERSONALITIES[AutopilotKind.PX4]().execute(handles, Order(1, OrderKind.ARM))
    handles, calls = plugins(failing=("send_command",))
    with pytest.raises(CallFailed, match="denied to command 176"):
        PERSONALITIES[AutopilotKind.ARDUPILOT]().execute(handles, Order(1, OrderKind.ARM))
    assert ("arm",) not in calls  # not in GUIDED: not armed


def test_a_refused_stream_is_no_failure() -> None:
    handles, calls = plugins(failing=("set_rate_position",))
    refused = PERSONALITIES[AutopilotKind.ARDUPILOT]().request_streams(handles)
    assert len(refused) == 1
    assert {"set_rate_home", "set_rate_gps_info", "set_rate_battery"} <= {call[0] for call in calls}


def test_no_forced_arming_or_disarming() -> None:
    """MAVSDK's forced arming sends the force-disarm code; neither it nor the code may occur in the bridge."""
    kills = []
    for file in Path(chimera_ros.autopilot.__path__[0]).glob("*.py"):
        text = file.read_text()
        for word in ("arm_force", "21196", "2989", "terminate", "reboot", "shutdown"):
            assert word not in text, f"{file.name} mentions {word}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr == "kill":
                kills.append(file.name)
    assert kills == ["personality.py"]  # in one place only, behind OrderKind.KILL
    assert not any("FORCE" in kind.name for kind in OrderKind)


def test_pool_runs_jobs_and_leaves_hanging_ones_behind() -> None:
    import threading

    pool, release, done = CallPool(2, "test"), threading.Event(), threading.Semaphore(0)
    assert pool.submit(release.wait)
    for _ in range(5):
        assert pool.submit(done.release)
    for _ in range(5):
        assert done.acquire(timeout=60.0)
    assert not pool.close(0.1)  # one still hangs
    assert not pool.submit(done.release)
    release.set()
    assert pool.close(60.0)
