"""What physics forbids is flagged within a second; honest flight, noise and gaps are not."""

import random
from dataclasses import replace
from math import cos, nan, sin

import pytest

from chimera_ros.flight.messages import DroneState, DroneTelemetry
from chimera_ros.flight.plausibility import Anomaly, PlausibilityMonitor

START_NS = 1_900_000_000_000_000_000
HZ = 10


def stalled(seed: int):
    """The same flight through a process that stands still for 0.4 s and then goes on where it was."""
    for t, report in honest(seed):
        late = 0.4 if t >= 5.0 else 0.0
        yield t + late, replace(report, stamp_ns=report.stamp_ns + int(late * 1e9))


def honest(seed: int, seconds: float = 10.0, radius_m: float = 20.0, speed_m_s: float = 8.0):
    """Reports of a circle flown fast, with the noise of an estimator."""
    noise = random.Random(seed)
    turn = speed_m_s / radius_m
    for step in range(int(seconds * HZ)):
        t = step / HZ + noise.uniform(-0.02, 0.02)
        angle = turn * t
        yield (
            t,
            DroneTelemetry(
                "drone_01",
                START_NS + int(t * 1e9),
                DroneState.FOLLOWING,
                armed=True,
                in_air=True,
                position_enu_m=(
                    radius_m * cos(angle) + noise.gauss(0, 0.05),
                    radius_m * sin(angle) + noise.gauss(0, 0.05),
                    10.0 + noise.gauss(0, 0.05),
                ),
                velocity_enu_m_s=(
                    -speed_m_s * sin(angle) + noise.gauss(0, 0.1),
                    speed_m_s * cos(angle) + noise.gauss(0, 0.1),
                    noise.gauss(0, 0.1),
                ),
                battery_fraction=0.9 - 0.0005 * t,
            ),
        )


def shifted(report, metres):
    x, y, z = report.position_enu_m
    return replace(report, position_enu_m=(x + metres, y, z))


LIES = {
    Anomaly.JUMP: lambda report, age: shifted(report, 8.0),
    Anomaly.SPEED: lambda report, age: replace(report, velocity_enu_m_s=(40.0, 0.0, 0.0)),
    Anomaly.ACCELERATION: lambda report, age: replace(
        report, velocity_enu_m_s=tuple(-v - 3.0 for v in report.velocity_enu_m_s)
    ),
    Anomaly.ATTITUDE: lambda report, age: replace(report, orientation=(1.0, 0.0, 0.0, 0.0)),
    Anomaly.BATTERY: lambda report, age: replace(report, battery_fraction=1.0 + age),
    Anomaly.STAMP: lambda report, age: replace(report, stamp_ns=report.stamp_ns + 3_000_000_000),
    Anomaly.NOT_FINITE: lambda report, age: replace(report, position_enu_m=(nan, 0.0, 0.0)),
    Anomaly.GROUND: lambda report, age: replace(report, state=DroneState.GROUNDED),
}


@pytest.mark.parametrize("doubt", LIES, ids=lambda doubt: doubt.value)
def test_a_lie_is_flagged_within_a_second(doubt):
    monitor = PlausibilityMonitor(["drone_01"])
    began = 5.0
    found_at = None
    for t, report in honest(seed=3):
        told = LIES[doubt](report, t - began) if t >= began else report
        found = monitor.check(told, t, START_NS + int(t * 1e9))
        if t < began:
            assert found == ()
        elif doubt in found and found_at is None:
            found_at = t
    assert found_at is not None and found_at - began <= 1.0
    assert monitor.anomalies["drone_01"][doubt] >= 1


def test_a_drift_that_the_velocity_does_not_follow_is_flagged():
    monitor = PlausibilityMonitor(["drone_01"])
    flagged = []
    for t, report in honest(seed=4):
        told = shifted(report, 8.0 * max(0.0, t - 5.0))
        if monitor.check(told, t, START_NS + int(t * 1e9)):
            flagged.append(t)
    assert flagged and 5.0 < flagged[0] <= 6.0


@pytest.mark.parametrize("seed", range(8))
def test_honest_flight_is_never_doubted(seed):
    monitor = PlausibilityMonitor(["drone_01"])
    for t, report in honest(seed, seconds=30.0, speed_m_s=4.0 + seed):
        assert monitor.check(report, t + 0.03, START_NS + int((t + 0.03) * 1e9)) == ()
    assert monitor.anomalies == {}


def test_a_stalled_process_is_no_liar():
    monitor = PlausibilityMonitor(["drone_01"])
    for t, report in stalled(seed=6):
        assert monitor.check(report, t, START_NS + int(t * 1e9)) == ()


def test_silence_and_overtaken_packets_are_no_lies():
    monitor = PlausibilityMonitor(["drone_01"])
    reports = list(honest(seed=5, seconds=20.0))
    late = {30: 31, 31: 30}  # two packets change places
    order = [late.get(i, i) for i in range(len(reports)) if not 80 <= i < 110]
    for index in order:
        t, report = reports[index]
        assert monitor.check(report, t, START_NS + int(t * 1e9)) == ()


def test_unknown_drones_and_drones_without_autopilot_are_not_judged():
    monitor = PlausibilityMonitor(["drone_01"])
    nowhere = DroneTelemetry("drone_01", START_NS, DroneState.UNKNOWN)
    assert monitor.check(nowhere, 0.0, START_NS) == ()
    assert monitor.check(replace(nowhere, drone="drone_99"), 0.0, START_NS) == ()
