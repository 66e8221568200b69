"""The aggregator of status lines: sums over processes and restarts, and no line that can break it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from chimera_ros.crypto.evidence.ledgers import CheckpointCounts
from chimera_ros.crypto.member.security_state import EvictedMember, SecurityState
from chimera_ros.records.histogram import Histogram
from chimera_ros.records.process_status import (
    CryptoStatus,
    Details,
    DroneStatus,
    FollowerStatus,
    LeaderStatus,
    LoggerStatus,
    ModerationTotals,
    ProcessStatus,
    SecurityStatus,
    SitlStatus,
)
from chimera_ros.records.report import build_report
from chimera_ros.records.security_summary import SecuritySummary
from chimera_ros.records.status import StatusAggregator
from chimera_ros.records.status_fields import StatusFields
from chimera_ros.records.status_line import encode_status, parse_status
from chimera_ros.records.table import plain_line, render_view
from chimera_ros.sitl.config import SitlConfig
from chimera_ros.sitl.simulation import Simulation

DRONES = ("drone_01", "drone_02", "drone_03")


def security(sealed: int, opened: int, **rejected: int) -> dict[str, Any]:
    return {"suite": "CHIMERA-1", "sealed": sealed, "opened": opened, "rejected": rejected}


def read(line: dict[str, Any]) -> ProcessStatus | None:
    """A status as it comes out of a pipe; every field must be readable."""
    parsed = parse_status(encode_status(line))
    assert parsed is not None
    fields = StatusFields(parsed)
    status = ProcessStatus.from_json(fields)
    assert not fields.ignored
    return status


@pytest.mark.parametrize(
    ("process", "details"),
    [
        (
            "leader",
            LeaderStatus(
                "vee", 3.5, True, False, "no GPS", ("drone_02",), ("a", "b"), 7,
                ModerationTotals(3, 2, {"exact": 1}, {"late": 2}), (("drone_03", "no GPS"),), 1.25,
            ),
        ),
        ("follower_0", FollowerStatus(DRONES)),
        ("crypto_1", CryptoStatus(False, 4, DRONES, 2, (10.5, 20.0))),
        ("telemetry_logger", LoggerStatus((DroneStatus("drone_01", "landed", 0.1, 0.9, 4, 0.2),), 5, "x")),
        ("sitl", SitlStatus(0.99, 2.5, 1, ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))),
        ("path_moderation", None),
    ],
)  # fmt: skip
def test_what_a_process_writes_is_what_is_read(process: str, details: Details | None) -> None:
    summary = SecuritySummary(
        "openssl",
        "crypto_0",
        "no crypto node",
        True,
        removed=(("drone_07", "evicted"),),
        checkpoints={"sent": 1},
    )
    counts = {"replay": 2}
    secure = SecurityStatus("CHIMERA-1", 5, 6, counts, counts, counts, ("an alarm",), summary)
    status = ProcessStatus(process, secure, ("something",), details)
    found = read(status.to_json())
    assert found is not None
    assert found.to_json() == status.to_json()


def test_a_histogram_survives_a_status_line() -> None:
    histogram = Histogram()
    histogram.add(2.0, 10)
    found = read(ProcessStatus("follower_0", details=FollowerStatus(DRONES, histogram)).to_json())
    assert found is not None
    assert isinstance(found.details, FollowerStatus)
    assert found.details.latency_ms.to_status() == histogram.to_status()


def test_what_the_simulation_writes_is_read() -> None:
    simulation = Simulation(SitlConfig(drones=2, first_port=25540, gcs_port=0))
    simulation.advance()
    found = read({"real_time_factor": 1.0, **simulation.status()})
    assert found is not None
    places = tuple(tuple(place) for place in simulation.true_enu_m())
    assert found.details == SitlStatus(1.0, None, 0, places)


def test_drones_have_rows_before_they_are_heard_and_age_afterwards() -> None:
    status = StatusAggregator(DRONES, now=10.0)
    assert [row.state for row in status.view(10.0).drones] == ["not heard"] * 3
    row = {"drone": "drone_02", "state": "HOLDING", "error_m": 0.25, "battery": 0.9, "epoch": 4, "age_s": 0.1,
           "enu": [1, 2.5, 3], "reason": ""}  # fmt: skip
    status.feed(
        {"process": "telemetry_logger", "drones": [row], "recorded": 7, "records": "/tmp/x"}, now=11.0
    )
    view = status.view(11.5)
    second = view.drones[1]
    assert (second.state, second.error_m, second.battery, second.epoch) == ("HOLDING", 0.25, 0.9, 4)
    assert second.enu_m == (1.0, 2.5, 3.0)
    assert second.age_s == pytest.approx(0.6)
    assert not second.stale
    assert status.view(15.0).drones[1].stale
    assert view.drones[0].stale
    assert (view.recorded, view.records, view.elapsed_s) == (7, "/tmp/x", 1.5)
    assert status.ignored == 0


def test_counters_add_up_over_processes_and_survive_a_restart() -> None:
    status = StatusAggregator(DRONES, now=0.0)
    histogram = Histogram()
    histogram.add(2.0, 10)
    line = {"process": "follower_0", "drones": ["drone_01"], "latency_ms": histogram.to_status()}
    status.feed(line | {"security": security(5, 10, replay=1)}, 1.0, pid=100)
    status.feed(line | {"security": security(8, 20, replay=2)}, 2.0, pid=100)
    status.process_exited("follower_0", "was ended by SIGKILL", 2.5)
    assert not status.view(2.6).processes[0].running
    status.process_restarted("follower_0", 3.0)
    status.feed(line | {"security": security(1, 1, replay=1, too_old=4)}, 4.0, pid=101)
    status.feed({"process": "leader", "security": security(100, 0), "commands_sent": 6}, 4.0, pid=7)
    totals = status.totals()
    assert (totals.security.sealed, totals.security.opened) == (109, 21)
    assert totals.security.rejected == {"replay": 3, "too_old": 4}
    assert totals.command_latency_ms.count == 20
    assert totals.commands_sent == 6
    assert status.view(4.0).drones[0].process == "follower_0"
    assert [text for _, text in totals.events] == [
        "process follower_0 was ended by SIGKILL",
        "process follower_0 was restarted",
    ]
    assert status.view(4.0).alarms == ("process follower_0 was ended by SIGKILL",)


def test_the_leaders_word_on_the_mission() -> None:
    status = StatusAggregator(DRONES, now=0.0)
    leader: dict[str, Any] = {"process": "leader", "phase": "vee", "mission_time_s": 3.5, "finished": False,
                              "failure": None, "events": ["a"], "first_takeoff_s": 1.25,
                              "waiting": [{"drone": "drone_03", "reason": "no GPS"}]}  # fmt: skip
    status.feed(leader, 1.0)
    view = status.view(1.0)
    assert (view.phase, view.mission_time_s, view.waiting) == ("vee", 3.5, (("drone_03", "no GPS"),))
    status.feed(leader | {"waiting": [], "finished": True, "events": ["b"]}, 2.0)
    totals = status.totals()
    assert totals.completed
    assert totals.first_takeoff_s == 1.25
    assert [text for _, text in totals.events] == ["a", "b"]
    status.feed(leader | {"finished": True, "completed": False}, 3.0)
    assert not status.totals().completed
    status.feed(leader | {"finished": True, "failure": "drone_03 never answered"}, 3.0)
    assert not status.totals().completed
    assert status.totals().failure == "drone_03 never answered"


def test_rekeying_and_the_simulation() -> None:
    status = StatusAggregator(DRONES, now=0.0)
    status.feed(
        {"process": "crypto", "epoch": 9, "members": list(DRONES), "rotations": 2, "rekey_ms": [10.0]}, 1.0
    )
    status.feed(
        {"process": "crypto", "epoch": 10, "members": list(DRONES), "rotations": 3, "rekey_ms": [20.0]}, 2.0
    )
    status.feed({"process": "sitl", "real_time_factor": 0.995, "min_separation_m": 2.5, "collisions": 1}, 2.0)
    view, totals = status.view(2.0), status.totals()
    assert (view.security.epoch, view.security.members, view.security.rotations) == (10, 3, 3)
    assert totals.rekey_ms == (10.0, 20.0)
    assert (view.real_time_factor, view.min_separation_m, view.collisions) == (0.995, 2.5, 1)


def test_wrong_fields_are_ignored_and_counted_and_the_good_ones_kept() -> None:
    status = StatusAggregator(DRONES, now=0.0)
    row: dict[str, Any] = {"drone": "drone_01", "state": 7, "error_m": "far", "battery": True, "epoch": -1,
                           "enu": [1, 2], "age_s": 0.5}  # fmt: skip
    status.feed({"process": "telemetry_logger", "drones": [row, 5, {"drone": None}], "recorded": 1.5}, 1.0)
    first = status.view(1.0).drones[0]
    assert (first.state, first.error_m, first.battery, first.epoch, first.enu_m) == (
        "unknown", None, None, None, None,
    )  # fmt: skip
    assert first.age_s == 0.5
    assert status.ignored == 8


def test_text_from_a_child_cannot_steer_the_terminal() -> None:
    status = StatusAggregator(DRONES, now=0.0)
    status.feed({"process": "leader", "phase": "\x1b[2Jgone\n" + "x" * 1000, "events": ["\x07bell"]}, 1.0)
    view = status.view(1.0)
    assert view.phase.isprintable()
    assert len(view.phase) <= 200
    assert view.events[0][1] == " bell"


def test_everything_is_bounded() -> None:
    status = StatusAggregator(DRONES, now=0.0)
    for i in range(3000):
        status.alarm(f"alarm {i}", float(i))
        status.feed({"process": "follower_0", "drones": [f"ghost_{i}"]}, float(i))
    view = status.view(1.0)
    assert len(view.drones) == 512
    assert len(view.alarms) == 100
    assert len(view.events) == 1000
    assert view.alarms[-1] == "alarm 2999"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "phase",
        "mission_time_s",
        "finished",
        "failure",
        "waiting",
        "events",
        "first_takeoff_s",
        "commands_sent",
        "security",
        "drones",
        "recorded",
        "records",
        "epoch",
        "members",
        "rotations",
        "rekey_ms",
        "latency_ms",
        "tracking_m",
        "real_time_factor",
        "min_separation_m",
        "collisions",
        "alarms",
        "completed",
    ]
)
NAMES = st.sampled_from(["leader", "crypto", "sitl", "telemetry_logger", "follower_0"])


@given(st.lists(st.tuples(NAMES, st.dictionaries(KEYS, JSON, max_size=6), st.integers(1, 3)), max_size=6))
def test_no_line_breaks_view_table_or_report(lines: list[tuple[str, dict[str, Any], int]]) -> None:
    status = StatusAggregator(DRONES, now=0.0)
    for index, (name, fields, pid) in enumerate(lines):
        status.feed({"process": name, **fields}, float(index), pid=pid)
    view = status.view(10.0)
    render_view(view, "title", 80, 30)
    assert "\n" not in plain_line(view)
    build_report(status.totals(), drones=3, mission="m", duration_s=1.0).to_json()


def test_security_at_a_glance_over_all_processes_and_restarts():
    swarm = StatusAggregator(["drone_01"], 0.0)

    def line(process, counts, **values):
        state = SecurityState(provider="openssl", checkpoints=counts, **values)
        return {"process": process, "security": {"suite": "CHIMERA-1", "state": state.to_status()}}

    swarm.feed(line("leader", CheckpointCounts(confirmed=10, mismatched=1)), 1.0, pid=1)
    swarm.feed(line("telemetry_logger", CheckpointCounts(confirmed=7, unconfirmed=2)), 1.0, pid=2)
    swarm.feed(line("telemetry_logger", CheckpointCounts(confirmed=1)), 2.0, pid=3)
    swarm.feed(
        line(
            "crypto", CheckpointCounts(), evicted=(EvictedMember("drone_02", "evicted, ordered by operator"),)
        ),
        2.0,
    )
    swarm.feed(line("follower_0", CheckpointCounts(), evicted=(EvictedMember("drone_02", "evicted"),)), 2.0)
    summary = swarm.view(3.0).security.summary
    assert summary.checkpoints == {
        "sent": 0,
        "dropped": 0,
        "verified": 0,
        "refused": 0,
        "confirmed": 18,
        "unconfirmed": 2,
        "mismatched": 1,
    }
    assert summary.removed == (("drone_02", "evicted, ordered by operator"),)
    assert summary.provider == "openssl"
    for junk in (None, 3, [], {"checkpoints": 5, "put_out": [4, {"name": 7}], "degraded": ["x"]}):
        swarm.feed({"process": "leader", "security": {"state": junk}}, 4.0, pid=1)
    swarm.feed(line("leader", CheckpointCounts(), degraded="no\x1b[2J crypto node"), 5.0, pid=1)
    assert swarm.view(5.0).security.summary.degraded == "no [2J crypto node"
    assert swarm.totals().security.summary.degraded


def test_what_a_dead_or_hanging_process_said_last_is_no_state() -> None:
    def line(process: str, **values: Any) -> dict[str, Any]:
        state = SecurityState(ready=True, **values).to_status()
        return {"process": process, "security": {"suite": "CHIMERA-1", "state": state}}

    status = StatusAggregator(DRONES, now=0.0)
    assert not status.view(60.0).security.summary.stale, "nobody has spoken yet"
    status.feed(line("crypto", crypto_node="crypto_0", degraded="no crypto node"), 1.0)
    for now in (2.0, 5.0, 8.0):
        status.feed(line("follower_0", crypto_node="crypto_1"), now)
    summary = status.view(8.5).security.summary
    assert (summary.crypto_node, summary.degraded, summary.stale) == ("crypto_1", "", False)
    status.process_exited("follower_0", "was ended by SIGKILL", 9.0)
    view = status.view(9.5)
    assert view.security.summary.stale
    assert view.security.summary.crypto_node == ""
    assert "no process reports its security" in plain_line(view)
    console = Console(width=80, file=io.StringIO())
    console.print(render_view(view, "x"))
    assert "SECURITY NOT HEARD" in console.file.getvalue()  # type: ignore[attr-defined]
    assert status.totals().security.summary.degraded, "the report tells of the whole flight"
    status.feed({"process": "leader", "finished": True}, 10.0)
    assert not status.view(30.0).security.summary.stale, "all end after a flight"
