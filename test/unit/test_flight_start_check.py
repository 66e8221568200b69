"""What followers or the leader would refuse at the start or in flight is NO-GO before; what flies is GO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chimera_ros import cli
from chimera_ros.commands import preflight, swarm, swarm_setup
from chimera_ros.flight.limits import OWN_MAX_HEIGHT_M, USUAL, Fence, FlightEnvelope, OwnLimits
from chimera_ros.flight.planning.mission_file import parse_mission
from chimera_ros.flight.planning.planner import plan_mission
from chimera_ros.flight.planning.start_check import CHARGED, start_faults
from chimera_ros.flight.rehearsal.rehearsal import Rehearsal
from chimera_ros.sitl.config import VEHICLE_LIMITS


def mission(**changes: Any) -> dict[str, Any]:
    """A mission that flies."""
    return {
        "mission": "limits",
        "datum": {"lat_deg": 47.4, "lon_deg": 8.5, "amsl_m": 488},
        "separation_m": 2,
        "fence": {"east_m": [-2500, 2500], "north_m": [-2500, 2500], "height_m": [1.5, 200]},
        "limits": {
            "speed_m_s": 5,
            "climb_m_s": 2,
            "descent_m_s": 1.5,
            "acceleration_m_s2": 2.5,
            "jerk_m_s3": 6,
        },
        "pads": {"spacing_m": 4},
        "battery": {"endurance_s": 3000, "reserve": 0.1},
        "steps": [{"takeoff": {"height_m": 8}}, {"goto": {"center_m": [20, 0, 10]}}, "land"],
    } | changes


def limits(**changes: float) -> dict[str, Any]:
    return {"limits": mission()["limits"] | changes}


def steps(height_m: float, *more: Any) -> dict[str, Any]:
    return {"steps": [{"takeoff": {"height_m": height_m}}, *more, "land"]}


REFUSED = [
    ({"datum": "local"}, "`datum: local` needs a pose from outside"),
    ({"fence": mission()["fence"] | {"height_m": [120, 200]}} | steps(130), "a drone's highest 120 m"),
    (steps(125), "goes up to 125.0 m, the highest height is 120.0 m"),
    (steps(60), "a take-off is limited to 40 s and so to 53 m, not 60 m"),
    (steps(8, {"goto": {"center_m": [0, 0, 130]}}), "goes up to 130.0 m, the highest height is 120.0 m"),
    (
        steps(8, {"goto": {"center_m": [2100, 0, 10]}}) | limits(speed_m_s=11),
        "from home, the limit is 2000 m",
    ),
    (steps(8, {"goto": {"center_m": [400, 0, 10]}}) | limits(speed_m_s=20), "speed reaches 20"),
    (
        limits(climb_m_s=4.9) | steps(8, {"goto": {"center_m": [0, 0, 90]}}),
        "climbs at 4.9 m/s, its autopilot's",
    ),
    (
        limits(descent_m_s=4.9) | steps(50, {"goto": {"center_m": [0, 0, 5]}}),
        "descends at 4.9 m/s, its autopilot's limit is 3.0 m/s",
    ),
    (
        steps(8, {"hold": {"seconds": 850}}),
        "return by themselves at 20 %",
    ),  # the simulated battery is smaller
    ({"battery": {"endurance_s": 40, "reserve": 0.0}}, "return by themselves at 20 %"),
    ({"pads": {"spacing_m": 2.52}}, "the pads are 2.52 m apart"),
    ({"fence": mission()["fence"] | {"east_m": [-2.1, 50]}} | steps(8), "a pad is 0.10 m inside the fence"),
    ({"pads": {"spacing_m": 4, "center_m": [0, 0, 7.4]}}, "above its pad; 0.65 m are required"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=str)
def test_check_preflight_and_start_refuse_the_same(
    changes: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mavlink_port: int,
) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(json.dumps(mission(**changes)))
    monkeypatch.setattr(swarm.Flight, "run", lambda _: 0)
    monkeypatch.setattr(preflight, "run_checks", list)
    drones = ["--drones", "2"]
    ports = ["--gcs-port", "0", "--first-port", str(mavlink_port)]
    assert cli.main(["check", str(file), *drones]) == 1
    assert said in capsys.readouterr().out
    assert cli.main(["preflight", str(file), *drones, *ports]) == 1
    assert said in capsys.readouterr().out
    assert cli.main(["swarm", "--mission", str(file), *drones, *ports]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["limits.yaml"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        steps(53),
        steps(8, {"goto": {"center_m": [0, 0, 119.9]}}),
        steps(8, {"goto": {"center_m": [1900, 0, 10]}}) | limits(speed_m_s=11.4),
        {"pads": {"spacing_m": 2.61}},
        limits(climb_m_s=4.0, descent_m_s=3.0) | steps(8, {"goto": {"center_m": [0, 0, 90]}}),
        {"battery": {"endurance_s": 60, "reserve": 0.0}},
    ],
)
def test_what_flies_to_its_end_is_go(changes: dict[str, Any]) -> None:
    """Just within each limit: GO, and a rehearsal with followers' own envelope flies it."""
    flown = parse_mission(json.dumps(mission(**changes)))
    names = ["drone_01", "drone_02"]
    plan = plan_mission(flown, names, battery=dict.fromkeys(names, CHARGED))
    assert plan.ok, plan.verdict
    assert start_faults(flown, plan, VEHICLE_LIMITS) == ()
    envelope = FlightEnvelope.of_mission(flown.fence, USUAL)
    outcome = Rehearsal(flown, names, envelope=envelope).run(2000.0)
    assert outcome.completed, outcome.failure


@pytest.mark.parametrize("spacing_m", [2.52, 2.61])
def test_a_plan_that_is_go_is_go_from_where_drones_really_stand(spacing_m: float) -> None:
    """The leader plans again from measured positions: from a tight grid it would find no way."""
    flown = parse_mission(json.dumps(mission(pads={"spacing_m": spacing_m})))
    names = [f"drone_{number:02d}" for number in range(1, 10)]
    plan = plan_mission(flown, names)
    assert plan.ok
    random = np.random.default_rng(1)
    measured = []
    for _ in range(20):
        pads = np.asarray(plan.pads) + random.normal(0.0, 0.03, (9, 3)) * (1, 1, 0)
        measured.append(plan_mission(flown, names, [tuple(pad) for pad in pads]).ok)
    assert (start_faults(flown, plan) == ()) == all(measured)


def test_limits_of_an_autopilot_that_is_not_known_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    steep = limits(climb_m_s=4.9) | steps(8, {"goto": {"center_m": [0, 0, 90]}})
    file.write_text(json.dumps(mission(**steep)))
    assert cli.main(["check", str(file), "--drones", "2"]) == 1
    assert cli.main(["check", str(file), "--drones", "2", "--autopilot", "px4"]) == 0


def test_a_follower_keeps_the_lower_of_two_heights() -> None:
    fence = Fence.box((-10, 10), (-10, 10), (1, 300))
    assert FlightEnvelope.of_mission(fence, USUAL).fence.max_height_m == OWN_MAX_HEIGHT_M
    assert FlightEnvelope.of_mission(fence, OwnLimits(max_height_m=400)).fence.max_height_m == 300
    with pytest.raises(ValueError, match=r"^the fence's lowest height is 1 m, a drone's highest 0.5 m$"):
        FlightEnvelope.of_mission(fence, OwnLimits(max_height_m=0.5))


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("--drones 245", 2, "--drones is 245; allowed are 1 to 244"),
        ("--gcs-port 15540", 2, "--gcs-port 15540 is also the port of a vehicle"),
        ("--gcs-port 16541", 2, "--gcs-port 16541 is also the port of a vehicle"),
        ("--first-port 64535", 2, "--first-port is 64535; allowed are 1024 to 64534"),
        ("--shards 3", 2, "--shards is 3; allowed are 1 to the number of drones, 2"),
        ("--seed -1", 2, "--seed is -1; allowed are 0 to 9223372036854775807"),
        ("--duration 0", 2, "--duration is 0; allowed are 0.1 to 86400 s"),
        ("--wind nan", 2, "argument --wind: 'nan' is not a finite number"),
        ("--entropy os,dice", 2, "--entropy names 'dice'"),
        ("--entropy=", 2, "--entropy names ''"),
        ("--fault 3:silent", 2, "--fault names vehicle 3, but there are 2 drones"),
        ("--fault 1:silent@5", 2, "silent lasts from the start: leave out @SECONDS"),
        ("--fault 1:freeze --fault 1:freeze", 2, "gives vehicle 1 the fault freeze twice"),
        ("--fault 1:tired", 2, "write N:KIND[@SECONDS] with KIND one of bad_origin"),
        ("--fault 1_0:silent", 2, "write N:KIND[@SECONDS]"),
        ("--autopilot px4 --fault 1:silent", 2, "--fault is for the embedded SITL"),
        ("--connect nonsense", 2, "nonsense: a connection starts with one of udpin://"),
        ("--connect udpin://127.0.0.1:14540", 2, "gives drones 1 and 2 the same URL"),
        ("--connect udpin://127.0.0.1:{65535+i}", 2, "the port must be a number from 1 to 65535"),
        ("--connect udpin://127.0.0.1:{9**9}", 2, "is not allowed in a connection template"),
        ("--connect udpin://192.0.2.1:{14540+i}", 1, "cannot listen at udpin://192.0.2.1:14540 for drone_01"),
        ("--report .", 2, "--report . cannot be written: . is a folder"),
        ("--record limits.yaml", 2, "limits.yaml is not a folder; choose another with --record"),
        ("--keystore nowhere", 2, "there is no keystore in"),
    ],
)
def test_options_that_a_child_would_refuse_are_refused_before_the_start(
    options: str,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "limits.yaml").write_text(json.dumps(mission()))
    monkeypatch.setattr(swarm.Flight, "run", lambda _: 0)
    monkeypatch.setattr(preflight, "run_checks", list)
    words = ["--drones", "2", "--gcs-port", "0", *options.split()]
    assert cli.main(["swarm", "--mission", "limits.yaml", *words]) == status
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    # Preflight refuses it as well, as misuse or as NO-GO.
    assert cli.main(["preflight", "limits.yaml", *words]) in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["limits.yaml"]


def test_the_start_and_preflight_take_the_same_options() -> None:
    import argparse

    start, before = argparse.ArgumentParser(), argparse.ArgumentParser()
    swarm_setup.add_arguments(start)
    preflight.register(before)

    def of(parser: argparse.ArgumentParser) -> dict[str, tuple[Any, Any]]:
        return {action.dest: (action.type, action.default) for action in parser._actions}

    assert of(start) == of(before)
