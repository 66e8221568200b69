"""The node base: doors shut, parameters checked and read-only, errors wipe, spinning ends on signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest
import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from chimera_ros.ros import SetupError, Spinner, SwarmNode, parameter


@dataclass(frozen=True, slots=True)
class Settings:
    keystore: str = parameter("", "Directory of the keystore")
    rate_hz: float = parameter(20.0, "Rate, Hz", ge=1.0, le=50.0)
    drones: tuple[int, ...] = parameter((), "Numbers of the hosted drones", ge=1, le=250)
    autopilot: str = parameter("px4", "Kind of autopilot", choices=("px4", "ardupilot"))
    attempts: int = parameter(3, "How often to try", ge=1)


class Probe(SwarmNode[Settings]):
    def __init__(self, **overrides):
        self.calls = []
        self.raises = {}
        super().__init__("probe", Settings, overrides=overrides)

    def _note(self, name):
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]

    def setup(self):
        self._note("setup")

    def begin(self):
        self._note("begin")

    def pause(self):
        self._note("pause")

    def close(self):
        self._note("close")

    def wipe(self):
        self._note("wipe")


@pytest.fixture
def ros(ros_domain):
    rclpy.init(domain_id=ros_domain)
    yield
    rclpy.try_shutdown()


def test_starts_itself_and_ends(ros):
    node = Probe(drones=[1, 2], rate_hz=10.0)
    assert node.autostart()
    assert node.active
    assert node.parameters == Settings("", 10.0, (1, 2), "px4", 3)
    node.end()
    assert not node.active
    assert node.calls == ["setup", "begin", "pause", "close", "wipe", "wipe"]
    node.end()
    node.destroy_node()


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"rate_hz": 100.0}, "rate_hz is 100.0; allowed is a number from 1.0 to 50.0"),
        ({"rate_hz": float("nan")}, "rate_hz is nan; allowed is"),
        ({"autopilot": "other"}, "autopilot is 'other'; allowed is one of px4, ardupilot"),
        ({"drones": [0]}, "drones is (0,); allowed is a list, each item a whole number from 1 to 250"),
        ({"attempts": "often"}, "attempts is 'often'; allowed is a whole number of at least 1"),
    ],
)
def test_parameters_are_checked(ros, overrides, text):
    node = Probe(**overrides)
    assert not node.autostart()
    assert text in node.failure
    assert "setup" not in node.calls
    node.destroy_node()


def test_whole_numbers_and_empty_lists_are_understood(ros):
    node = Probe(rate_hz=5, drones=[])
    assert node.autostart(), node.failure
    assert node.parameters.rate_hz == 5.0
    assert node.parameters.drones == ()
    node.destroy_node()


def test_parameters_are_read_only_once_active(ros):
    node = Probe()
    assert node.autostart()
    answer = node.set_parameters([Parameter("rate_hz", value=30.0)])[0]
    assert not answer.successful
    assert "read-only" in answer.reason
    assert node.get_parameter("rate_hz").value == 20.0
    node.destroy_node()


def test_failed_setup_says_why_and_wipes(ros):
    node = Probe()
    node.raises["setup"] = SetupError("keys: no such directory; create it with `chimera keys create`")
    assert not node.autostart()
    assert "no such directory" in node.failure
    assert node.calls == ["setup", "close", "wipe"]
    node.destroy_node()


def test_texts_of_unexpected_errors_are_not_logged(ros):
    node = Probe()
    node.raises["begin"] = RuntimeError("secret 1234")
    assert not node.autostart()
    assert "secret" not in node.failure
    assert "RuntimeError at test_ros_lifecycle.py" in node.failure
    assert node.calls[-1] == "wipe"
    node.destroy_node()


def test_fail_wipes_keys(ros):
    node = Probe()
    assert node.autostart()
    node.fail("the core gave up")
    assert not node.active
    assert "wipe" in node.calls
    assert node.calls.count("pause") == 0
    node.destroy_node()


def test_doors_are_shut(ros):
    """From another node no service of this one is there, and an attempt to set a parameter gets no answer."""
    node = Probe()
    assert node.autostart()
    stranger = rclpy.create_node("stranger", start_parameter_services=False)
    open_node = rclpy.create_node("open")  # shows that the look-out works
    spinner = Spinner()
    for each in (node, stranger, open_node):
        spinner.add(each)
    client_open = stranger.create_client(SetParameters, "/open/set_parameters")
    limit = time.monotonic() + 60.0
    spinner.spin(lambda: client_open.service_is_ready() or time.monotonic() > limit)
    assert client_open.service_is_ready()
    services = {name for name, _ in stranger.get_service_names_and_types()}
    assert any(name.startswith("/open/") for name in services)
    assert not [name for name in services if "probe" in name]
    client = stranger.create_client(SetParameters, "/chimera/probe/set_parameters")
    assert not client.service_is_ready()
    wanted = [Parameter("rate_hz", value=30.0).to_parameter_msg()]
    future = client.call_async(SetParameters.Request(parameters=wanted))
    limit = time.monotonic() + 1.0
    spinner.spin(lambda: future.done() or time.monotonic() > limit)
    assert not future.done()
    assert node.get_parameter("rate_hz").value == 20.0
    assert node.active
    spinner.close()
    for each in (node, stranger, open_node):
        each.destroy_node()


def test_spinner_stops_from_another_thread_and_idles(ros):
    node = Probe()
    spinner = Spinner()
    spinner.add(node)
    ticks, enough = [], threading.Event()

    def tick():
        ticks.append(time.monotonic())
        if len(ticks) == 10:
            enough.set()

    node.create_steady_timer(0.1, tick)
    cpu = time.process_time()
    threading.Thread(target=lambda: enough.wait(60.0) and spinner.stop(), daemon=True).start()
    spinner.spin()
    assert len(ticks) >= 10
    assert time.process_time() - cpu < 0.4
    spinner.close()
    node.destroy_node()


CHILD = """
import sys, time
from chimera_ros.ros import SwarmNode, run_node

class Child(SwarmNode):
    def begin(self):
        print("up", flush=True)
    def stop_requested(self, count):
        print("stop", count, flush=True)
        return len(sys.argv) > 1
    def wipe(self):
        print("wiped", flush=True)

sys.exit(run_node(lambda: Child("child")))
"""


@pytest.mark.parametrize(
    ("lingers", "signals", "said"), [(False, 1, ["stop 1"]), (True, 2, ["stop 1", "stop 2"])]
)
def test_signals_end_a_node_cleanly(ros_domain, lingers, signals, said):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *(["linger"] if lingers else [])],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROS_DOMAIN_ID": str(ros_domain)},
    )
    try:
        assert child.stdout.readline() == "up\n"
        heard = []
        for count in range(signals):
            child.send_signal(signal.SIGTERM if count else signal.SIGINT)
            heard.append(child.stdout.readline().strip())
        rest = child.stdout.read().split("\n")
        child.wait(15)
    finally:
        child.kill()
    assert heard == said
    assert "wiped" in rest
    assert child.returncode == 0
