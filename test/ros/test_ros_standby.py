"""Crypto nodes as real processes: the one in charge is killed, a standby takes over, telemetry flows on."""

import signal
import subprocess
import sys
import time

import pytest
from chimera_ros.msg import DroneTelemetry, SwarmCommand, SwarmCommands

from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.ros.endpoints import RawMessage


@pytest.fixture
def crypto_nodes(party):
    """`start(name)` starts a crypto node's process, or starts it again."""
    Keystore(party.keystore, durable=False).enroll("crypto_1", "crypto", wall_ns=time.time_ns())
    running = {}

    def start(name):
        arguments = ["-r", "__ns:=/chimera", "-r", f"__node:={name}", "-p", f"member:={name}"]
        arguments += ["-p", f'keystore:="{party.keystore}"', "-p", 'entropy:=["os"]']
        running[name] = subprocess.Popen(
            [sys.executable, "-m", "chimera_ros.nodes.crypto", "--ros-args", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return running[name]

    yield start
    for process in running.values():
        process.kill()
        process.wait()


def issuer(session):
    """Name of the crypto node whose epoch the session's first member sends under, and who is in."""
    host, epoch = session.host, session.epoch()
    roster = {entry.fingerprint: entry.name for entry in host.roster()}
    announcement = host.announcement(epoch) if epoch else None
    return (roster.get(announcement.head.issuer) if announcement else None), set(roster.values())


def test_a_standby_takes_over_and_telemetry_flows_on(party, crypto_nodes):
    nodes = {name: crypto_nodes(name) for name in ("crypto_0", "crypto_1")}
    one, other = party.join("drone_01"), party.join("drone_02")
    got = []
    other.create_subscription(
        DroneTelemetry, "drone_01/telemetry", lambda message, _: got.append(message.command_id)
    )
    publisher = one.create_publisher(DroneTelemetry, "drone_01/telemetry")
    sent, sent_at = [], 0.0

    def send():
        nonlocal sent_at
        if time.monotonic() > sent_at + 0.05:
            message = DroneTelemetry(drone="drone_01", command_id=len(sent) + 1)
            if publisher.publish(message):
                sent.append(message.command_id)
                sent_at = time.monotonic()

    everybody = {"crypto_0", "crypto_1", "drone_01", "drone_02"}

    def together():
        (chief, members), (other_chief, other_members) = issuer(one), issuer(other)
        return chief == other_chief and members == other_members == everybody

    party.wait(together, "for both crypto nodes", 30.0)
    chief = issuer(one)[0]  # rank 0, unless its process was by far the slower one to start
    successor = (nodes.keys() - {chief}).pop()
    party.wait(lambda: send() or got, "for telemetry")
    first_heard = got[0]
    nodes[chief].send_signal(signal.SIGKILL)
    party.wait(lambda: send() or all(issuer(s)[0] == successor for s in (one, other)), "for the standby")
    count = len(sent) + 10
    party.wait(lambda: send() or len(sent) > count, "for telemetry under the new epoch")
    party.wait(lambda: got[-1] == sent[-1], "for the last telemetry")
    assert got == list(range(first_heard, sent[-1] + 1))


def test_without_crypto_nodes_the_leader_still_calls_the_drones_home(party, crypto_nodes):
    first = crypto_nodes("crypto_0")
    leader, drone = party.join("leader_0"), party.join("drone_01")
    got: list[RawMessage] = []
    drone.create_subscription(SwarmCommands, "leader/command", got.append, raw=True)
    publisher = leader.create_publisher(SwarmCommands, "leader/command")
    party.all_ready()
    first.send_signal(signal.SIGKILL)
    for session in (leader, drone):  # 30 s without a beat, shortened
        limits = session.host.context.limits
        object.__setattr__(limits, "silence_s", 2.0)
    party.wait(lambda: leader.degraded and drone.degraded, "for the silence")
    assert leader.status()["state"]["text"].startswith("DEGRADED")
    assert not leader.ready
    home = SwarmCommand(command_id=1, kind=SwarmCommand.RETURN, targets=["drone_01"])

    def heard():
        publisher.publish(SwarmCommands(commands=[home]))
        return got

    party.wait(heard, "for the order to return")
    assert got[0].opened.epoch == 0
    assert got[0].opened.addressed == ("drone_01",)
    assert got[0].opened.signed
    crypto_nodes("crypto_0")
    party.wait(lambda: leader.ready and drone.ready and not leader.degraded, "for the crypto node", 30.0)
