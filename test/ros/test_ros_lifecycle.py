"""The node base: doors shut, parameters checked and read-only, errors wipe, spinning ends on signals."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import rclpy
from chimera_ros.msg import LeaderHeartbeat
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from chimera_ros.nodes.member_node import ORPHANED_WITHIN_S, MemberNode
from chimera_ros.parent_watch import LAUNCH_PID
from chimera_ros.ros import SetupError, Spinner, SwarmNode, parameter
from chimera_ros.stop_requests import REPEAT_S


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


def test_services_are_exposed_on_a_bench_and_announced(ros, capfd):
    """With `expose_services`, `ros2 param` and `ros2 lifecycle` work, also before the node is configured."""
    node = Probe(expose_services=True)
    node.declare_parameters_only()
    stranger = rclpy.create_node("stranger", start_parameter_services=False)
    spinner = Spinner()
    for each in (node, stranger):
        spinner.add(each)
    setter = stranger.create_client(SetParameters, "/chimera/probe/set_parameters")
    changer = stranger.create_client(ChangeState, "/chimera/probe/change_state")

    def call(client, request):
        limit = time.monotonic() + 20.0
        spinner.spin(lambda: client.service_is_ready() or time.monotonic() > limit)
        future = client.call_async(request)
        spinner.spin(lambda: future.done() or time.monotonic() > limit)
        return future.result()

    def change(name, value):
        message = Parameter(name, value=value).to_parameter_msg()
        return call(setter, SetParameters.Request(parameters=[message])).results[0]

    def transition(number):
        return call(changer, ChangeState.Request(transition=Transition(id=number))).success

    assert change("rate_hz", 30.0).successful
    assert "one of px4, ardupilot" in change("autopilot", "other").reason
    assert "from 1 to 250" in change("drones", [0]).reason
    assert transition(Transition.TRANSITION_CONFIGURE)
    assert node.parameters.rate_hz == 30.0
    assert transition(Transition.TRANSITION_CLEANUP)
    assert change("rate_hz", 40.0).successful
    assert transition(Transition.TRANSITION_CONFIGURE)
    assert node.parameters.rate_hz == 40.0
    assert transition(Transition.TRANSITION_ACTIVATE)
    assert "read-only" in change("rate_hz", 20.0).reason
    assert node.active
    spinner.close()
    for each in (node, stranger):
        each.destroy_node()
    assert "anyone on this network can change this node" in capfd.readouterr().err


def test_a_node_that_nothing_could_start_is_refused(ros_domain):
    command = [sys.executable, "-c", CHILD, "--ros-args", "-p", "autostart:=false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "give -p expose_services:=true too" in done.stderr
    assert "Traceback" not in done.stderr


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


@contextlib.contextmanager
def running(ros_domain, *arguments, ignored=(), **environment):
    """The child, up and spinning; `ignored` signals are those that its caller ignores."""

    def ignore():
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROS_DOMAIN_ID": str(ros_domain), **environment},
        preexec_fn=ignore,
    )
    try:
        assert child.stdout.readline() == "up\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize(
    ("lingers", "signals", "said"), [(False, 1, ["stop 1"]), (True, 2, ["stop 1", "stop 2"])]
)
def test_signals_end_a_node_cleanly(ros_domain, lingers, signals, said):
    with running(ros_domain, *(["linger"] if lingers else [])) as child:
        heard = []
        for count in range(signals):
            if count:
                time.sleep(REPEAT_S)  # within it a second signal would be the first one's repetition
            child.send_signal(signal.SIGTERM if count else signal.SIGINT)
            heard.append(child.stdout.readline().strip())
        rest = child.stdout.read().split("\n")
        child.wait(15)
        assert heard == said
        assert "wiped" in rest
        assert child.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_every_signal_of_a_terminal_ends_a_node_cleanly(ros_domain, number):
    with running(ros_domain) as child:
        child.send_signal(number)
        assert child.stdout.read().split() == ["stop", "1", "wiped", "wiped"]
        assert child.wait(15) == 0


def test_signals_milliseconds_apart_and_a_closed_terminal_do_not_insist(ros_domain):
    """Terminal and launch both send SIGINT at one Ctrl-C; then the terminal is closed."""
    with running(ros_domain, "linger") as child:
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stop 1\n"
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        time.sleep(REPEAT_S)
        child.send_signal(signal.SIGHUP)
        time.sleep(2 * REPEAT_S)  # shows that nothing happens
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stop 2\n"
        assert child.wait(15) == 0


def test_signals_that_the_caller_ignores_stay_ignored(ros_domain):
    """A background shell ignores SIGINT, nohup SIGHUP."""
    ignored = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    with running(ros_domain, ignored=ignored) as child:
        for number in ignored:
            child.send_signal(number)
        time.sleep(REPEAT_S)  # shows that nothing happens
        child.send_signal(signal.SIGTERM)
        assert child.stdout.read().split() == ["stop", "1", "wiped", "wiped"]
        assert child.wait(15) == 0


def test_a_node_whose_launch_is_killed_is_asked_to_stop(ros_domain):
    launch = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with running(ros_domain, **{LAUNCH_PID: str(launch.pid)}) as child:
        launch.kill()
        launch.wait()
        launch.stdin.close()
        assert child.stdout.read().split() == ["stop", "1", "wiped", "wiped"]
        assert child.wait(15) == 0


class Member(MemberNode):
    """A member without a session."""

    def __init__(self):
        super().__init__("member", Settings)


@pytest.fixture
def member(ros, monkeypatch):
    """A member below a launch process that can be killed, its spinner, and a stand-in for the leader."""
    launch = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(LAUNCH_PID, str(launch.pid))
    node, leader = Member(), rclpy.create_node("leader", start_parameter_services=False)
    heartbeat = leader.create_publisher(LeaderHeartbeat, "/chimera/leader/heartbeat", 1)
    spinner = Spinner(on_stop=node.stop_requested, orphaned=node.is_orphaned)
    node.on_stop_spinning(spinner.stop)
    spinner.add(node)
    spin_for(spinner, 20.0, lambda: node.count_publishers("/chimera/leader/heartbeat"))
    yield SimpleNamespace(launch=launch, node=node, spinner=spinner, leader=leader, heartbeat=heartbeat)
    launch.kill()
    launch.wait()
    launch.stdin.close()
    spinner.close()
    for each in (node, leader):
        each.destroy_node()


def spin_for(spinner, duration_s, until=lambda: False):
    """True if the spinner went on until the time was over or the condition held."""
    limit = time.monotonic() + duration_s
    ended = []

    def done():
        ended.append(until() or time.monotonic() > limit)
        return ended[-1]

    spinner.spin(done)
    return ended[-1]


def test_an_orphaned_member_stays_until_the_leader_has_ended(member):
    """Launch was killed in flight: the leader lands the swarm, and needs the others for that."""
    member.launch.kill()
    assert spin_for(member.spinner, ORPHANED_WITHIN_S + 1.0)
    member.leader.destroy_publisher(member.heartbeat)
    assert not spin_for(member.spinner, 20.0)


def test_a_member_that_launch_ends_after_the_leader_ends_at_once(member):
    member.leader.destroy_publisher(member.heartbeat)
    spin_for(member.spinner, 20.0, lambda: not member.node.count_publishers("/chimera/leader/heartbeat"))
    assert member.node.stop_requested(1)
    began = time.monotonic()
    assert not spin_for(member.spinner, 20.0)
    assert time.monotonic() - began < ORPHANED_WITHIN_S


def test_a_member_that_is_ended_alone_under_launch_ends_soon(member):
    assert member.node.stop_requested(1)
    began = time.monotonic()
    assert not spin_for(member.spinner, 30.0)
    assert time.monotonic() - began >= ORPHANED_WITHIN_S


def test_a_member_without_launch_ends_at_the_first_request(ros):
    node = Member()
    assert not node.stop_requested(1)
    node.destroy_node()
