"""Key distribution between crypto node and leader over the sealed channels; the simulator is Born's rule."""

import os

import pytest
from std_msgs.msg import UInt8MultiArray

from chimera_ros.crypto.qkd.delivery import DistilledKeys
from chimera_ros.crypto.qkd.messages import AbortReason, Hello, Kind, kind_of, session_of
from chimera_ros.crypto.qkd.quantum_channel import QuantumChannel, born_rule
from chimera_ros.nodes import entropy
from chimera_ros.ros import names
from chimera_ros.ros.qkd import TICK_S, QkdAnswerer, QkdAsker


def ends(party, line=None, simulator=born_rule, wanted=lambda: True):
    crypto, leader = party.join("crypto_0"), party.join("leader_0")
    keys, heard, asked = DistilledKeys(), [], []

    def on_outcome(outcome):
        heard.append(outcome)
        if outcome.secret is not None:
            keys.add(outcome.key_id, outcome.secret)

    QkdAnswerer(crypto, wanted, on_outcome)
    asker = QkdAsker(
        leader,
        "leader_0",
        simulator,
        lambda outcome, why: asked.append((outcome, why)),
        line or QuantumChannel(),
        period_s=2.5,
    )
    party.nodes[1].create_timer(TICK_S / 10, asker.tick)
    party.all_ready()
    return crypto, keys, heard, asked


def test_a_key_reaches_both_ends(party):
    crypto, keys, heard, asked = ends(party)
    party.wait(lambda: heard and asked, "for a session")
    assert heard[0].secret is not None
    assert asked[0][0].secret == heard[0].secret
    assert keys.status().stored_key_count == len(heard[0].secret) // 32 >= 1
    assert crypto.status()["shell"].get("callback_errors", 0) == 0


def test_an_eavesdropper_is_noticed_by_both(party):
    _, keys, heard, asked = ends(party, QuantumChannel(0.01, intercepted=1.0))
    party.wait(lambda: heard and asked, "for a session")
    assert heard[0].reason is asked[0][0].reason is AbortReason.ERRORS
    assert "more than 11 % errors" in asked[0][1]
    assert keys.status().stored_key_count == 0


def test_no_session_when_none_is_wanted_and_a_simulator_that_fails_ends_one(party):
    def broken(run):
        raise RuntimeError("the quantum worker died")

    wanted = [False]
    _, _, heard, asked = ends(party, simulator=broken, wanted=lambda: wanted[0])
    party.wait(lambda: asked, "for the answer that none is wanted")
    assert asked[0][0].reason is AbortReason.BUSY
    wanted[0] = True
    party.wait(lambda: len(asked) > 1, "for the session that fails")
    assert asked[1] == (None, "the quantum worker died")
    assert heard == []


def test_others_may_not_take_part(party):
    drone = party.join("drone_01")
    with pytest.raises(PermissionError, match="leader/qkd"):
        QkdAsker(drone, "drone_01", born_rule, lambda *_: None)


def test_a_session_in_progress_knows_nothing_of_a_hello_that_comes_too_soon(party):
    """Bob was started again, or gave up: his hello is answered once it may be, and is nobody's fault."""
    crypto, leader = party.join("crypto_0"), party.join("leader_0")
    heard, answers = [], []
    QkdAnswerer(crypto, lambda: True, heard.append)
    publisher = leader.create_publisher(UInt8MultiArray, names.LEADER_QKD)
    leader.create_subscription(
        UInt8MultiArray, names.CRYPTO_QKD, lambda message, _: answers.append(bytes(message.data))
    )
    party.all_ready()
    first, second = (Hello(os.urandom(16)).encode() for _ in range(2))
    wanted = [first]
    party.nodes[1].create_timer(0.1, lambda: publisher.publish(UInt8MultiArray(data=wanted[0])))
    party.wait(lambda: answers, "for the first photons")
    wanted[0] = second
    party.wait(lambda: any(session_of(answer) == session_of(second) for answer in answers), "for the second")
    assert {kind_of(answer) for answer in answers} == {Kind.PHOTONS}
    assert heard == []


def test_a_quantum_worker_of_the_leader_that_dies_is_an_alarm(party, monkeypatch):
    class Worker:
        ready, absent, restarts = False, "", 0

        def close(self):
            pass

    worker, said = Worker(), []
    monkeypatch.setattr(entropy, "AerWorker", lambda modules: worker)
    leader = party.join("leader_0")
    monkeypatch.setattr(leader, "alarm", lambda severity, text: said.append((severity, text)))
    ours = entropy.LeaderQkd(leader, "leader_0")
    ours.tick()
    assert said == []  # still starting
    for restarts in (1, 2):
        worker.restarts = restarts
        ours.tick()
        ours.tick()
    assert said == [("warning", "quantum key distribution: the quantum worker died")]
    ours.close()
