"""Path moderation as the leader sees it: sealed, signed, in time, whatever happens to its worker or it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import nan

import numpy as np
import psutil
import pytest
from chimera_ros.srv import ModerateTrajectories

from chimera_ros.crypto.errors import Rejected
from chimera_ros.flight.moderation_call import ModerationRequest, ModerationStatus, Separation
from chimera_ros.flight.planning.mission import Mission
from chimera_ros.flight.planning.plan_check import answer_fault
from chimera_ros.moderation.scenes import antipodal
from chimera_ros.nodes.path_moderation import MAX_QUEUED, PathModerationNode
from chimera_ros.ros import names
from chimera_ros.ros.convert_moderation import moderation_answer_from_msg, moderation_request_to_msg

PATIENCE_S = 20.0  # of these tests: this machine may be busy


def call_of(count: int, deadline_s: float = 5.0) -> ModerationRequest:
    """Drones that all want through the middle; the deadline is long, for no test may depend on speed."""
    scene = antipodal(count, 3)
    return ModerationRequest(
        tuple(f"drone_{i:02d}" for i in range(1, count + 1)), scene.knots, Separation(5.0, 5.0), scene.limits,
        scene.fence, deadline_s, call_id=1, start_ns=10**18,
    )  # fmt: skip


@pytest.fixture
def service(party) -> Iterator[PathModerationNode]:
    """The node in this process, with quantum circuits in a process of its own."""
    party.join("crypto_0")
    node = PathModerationNode({"keystore": str(party.keystore), "autostart": False})
    party.spinner.add(node)
    assert node.autostart(), node.failure
    yield node
    node.end()
    node.destroy_node()


def ask(party, client, request: object, timeout_s: float = PATIENCE_S) -> object:
    replies: list = []
    assert client.call_async(request, timeout_s, replies.append)
    party.wait(lambda: replies, "for the answer", 2.0 * PATIENCE_S)
    return replies[0]


def leader_client(party):
    leader = party.join("leader_0")
    client = leader.create_client(ModerateTrajectories, names.PATH_MODERATION)
    party.all_ready()
    party.wait(client.service_is_ready, "for the service")
    return client


def test_the_leader_gets_a_verified_answer(party, service) -> None:
    client = leader_client(party)
    call = call_of(5)
    reply = ask(party, client, moderation_request_to_msg(call))
    assert reply.failure is None and reply.sender == "moderator_0"
    answer = moderation_answer_from_msg(reply.response, call.call_id)
    assert answer.status is ModerationStatus.CONFLICT_FREE, answer.reason
    assert answer.conflicts >= 5 and answer.drones == call.drones
    mission = Mission("any", None, call.separation.horizontal_m, call.fence, limits=call.limits)
    goals = np.array([k[-1].position_enu_m for k in call.knots])
    why = answer_fault(mission, call, goals, answer.knots, 120.0)
    assert why == ""
    said = reply.response
    assert said.rungs[0] == "keep" and said.rungs[-1] == "verify"
    assert len(said.rungs) == len(said.rung_ms) and said.winner == answer.winner
    assert said.gain_over_greedy >= 0.0 and said.gain_over_annealing >= 0.0
    assert said.backend != "" and said.qubits > 0 and said.shots > 0


def test_who_is_not_the_leader_is_refused(party, service, monkeypatch) -> None:
    requests: list[object] = []
    monkeypatch.setattr(service._moderator, "run", lambda *request: requests.append(request))
    drone = party.join("drone_01")
    with pytest.raises(PermissionError, match="lets leader publish on path_moderation/moderate/request"):
        drone.create_client(ModerateTrajectories, names.PATH_MODERATION)
    leader = party.join("leader_0")
    with pytest.raises(PermissionError, match="lets moderator publish on path_moderation/moderate/response"):
        leader.create_service(ModerateTrajectories, names.PATH_MODERATION, lambda request, sender: None)
    # a member that asks in spite of its own software: whoever opens it looks at its role again
    party.all_ready()
    with pytest.raises(Rejected, match="not_permitted"):
        drone.host.seal_request(names.PATH_MODERATION, "any/type", b"", drone.swarm_ns(), "drone_01")
    assert not requests


def test_nonsense_is_answered_and_changes_nothing(party, service) -> None:
    client = leader_client(party)
    good = call_of(4)
    knots = good.knots
    wrong: list[tuple[Callable[[ModerateTrajectories.Request], None], str]] = [
        (lambda m: setattr(m.trajectories[0].knots[1].position_enu_m, "x", nan), "finite"),
        (lambda m: setattr(m.trajectories[0].knots[1], "t_s", -1.0), "rise from 0"),
        (lambda m: setattr(m.trajectories[0], "knots", m.trajectories[0].knots[:1]), "2 to 512 knots"),
        (lambda m: setattr(m.trajectories[0], "drone", "drone_02"), "name of a drone"),
        (lambda m: setattr(m.trajectories[0], "start_ns", 7), "begin at the same time"),
        (lambda m: setattr(m, "trajectories", []), "no trajectory"),
        (lambda m: setattr(m, "deadline_s", nan), "deadline"),
        (lambda m: setattr(m, "speed_m_s", 0.0), "speed_m_s"),
        (lambda m: setattr(m, "separation_vertical_m", nan), "separation"),
        (lambda m: setattr(m, "fence_polygon_m", [0.0, 0.0, 1.0]), "pairs"),
        (lambda m: setattr(m, "fence_max_height_m", 25.0), "leaves the fence"),
    ]
    assert len(knots) == 4
    for spoil, text in wrong:
        message = moderation_request_to_msg(good)
        spoil(message)
        reply = ask(party, client, message)
        assert reply.response.status == ModerateTrajectories.Response.FAILED
        assert text in reply.response.reason, reply.response.reason
        assert not reply.response.trajectories
    # drones that stand in one another, and goals in one place
    same = replace(good, knots=(knots[0], knots[0], *knots[2:]))
    reply = ask(party, client, moderation_request_to_msg(same))
    assert reply.response.status == ModerateTrajectories.Response.INFEASIBLE
    assert {(c.first, c.second) for c in reply.response.remaining} == {("drone_01", "drone_02")}
    assert reply.response.remaining[0].horizontal_m == 0.0
    # and it still works
    reply = ask(party, client, moderation_request_to_msg(good))
    assert reply.response.status == ModerateTrajectories.Response.CONFLICT_FREE


def test_a_killed_quantum_worker_costs_the_circuits_and_nothing_else(party, service) -> None:
    client = leader_client(party)
    worker = service._worker
    assert worker is not None
    party.wait(lambda: worker.ready, "for the quantum worker", PATIENCE_S)
    worker_pid = worker.pid
    psutil.Process(worker_pid).send_signal(signal.SIGSTOP)  # it hangs at first, ...
    killer = threading.Timer(0.4, lambda: os.kill(worker_pid, signal.SIGKILL))  # ... then it is gone
    killer.start()
    reply = ask(party, client, moderation_request_to_msg(call_of(5, 3.0)))
    killer.join()
    assert reply.response.status == ModerateTrajectories.Response.CONFLICT_FREE
    assert reply.response.total_ms < 3000.0
    assert service._worker is not None and service._worker.restarts >= 1


def test_many_requests_at_once_are_bounded(party, service) -> None:
    client = leader_client(party)
    replies: list = []
    for _ in range(MAX_QUEUED + 4):
        assert client.call_async(moderation_request_to_msg(call_of(5, 1.0)), PATIENCE_S, replies.append)
    party.wait(lambda: len(replies) == MAX_QUEUED + 4, "for all answers", 3.0 * PATIENCE_S)
    refused = [r for r in replies if r.response is not None and "wait already" in r.response.reason]
    assert 1 <= len(refused) <= 4
    assert all(r.response is not None for r in replies)


def test_a_service_killed_in_the_middle_of_a_call_is_a_time_out(party, ros_domain) -> None:
    party.join("crypto_0")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "chimera_ros.nodes.path_moderation", "--ros-args", "-r", "__ns:=/chimera",
            "-p", f"keystore:={party.keystore}", "-p", "backend:=none",
        ],
        env=os.environ | {"ROS_DOMAIN_ID": str(ros_domain)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = leader_client(party)
        answered: list = []
        while not any(reply.response is not None for reply in answered):  # until it has keys to answer with
            assert len(answered) < 20 and process.poll() is None
            answered.append(ask(party, client, moderation_request_to_msg(call_of(2)), 2.0))
        replies: list = []
        process.send_signal(signal.SIGSTOP)
        assert client.call_async(moderation_request_to_msg(call_of(5, 1.0)), 1.0, replies.append)
        party.spin_for(0.2)
        process.kill()
        party.wait(lambda: replies, "for the time-out")
        assert replies[0].response is None
        assert "no answer from path_moderation/moderate in time" in replies[0].failure
    finally:
        process.kill()
        process.wait()
