"""Swarm time goes on when a member's wall clock is set."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace

import pytest
from chimera_ros.srv import ClockSync

from chimera_ros.ros.clock_sync import ClockClient
from chimera_ros.ros.lifecycle import boot_time_ns, boot_time_s
from chimera_ros.ros.services import Reply

AHEAD_NS = 5_000_000_000
NEAR_NS = 500_000_000


class Caller:
    """Context, endpoints and client in one, with a crypto node whose clock is five seconds ahead."""

    member = "drone_01"
    active = False
    host = SimpleNamespace(ready=lambda _: True)
    now = staticmethod(boot_time_s)

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.real_ns = time.time_ns  # before anybody sets the clock

    def client(self, *_: object, **__: object) -> Caller:
        return self

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, request: ClockSync.Request, _timeout_s: float, done: object) -> None:
        server_ns = self.real_ns() + AHEAD_NS
        response = ClockSync.Response(t1_ns=request.t1_ns, t2_ns=server_ns, t3_ns=server_ns)
        done(Reply(response, "crypto_0", None, boot_time_ns()))  # type: ignore[operator]


@pytest.mark.parametrize("set_ns", [3600 * 10**9, -3600 * 10**9, 900_000_000])
def test_swarm_time_goes_on_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch, set_ns: int) -> None:
    caller = Caller()
    real_ns = time.time_ns
    client = ClockClient(caller, caller, ("drone_01",))  # type: ignore[arg-type]
    assert abs(client.swarm_ns() - real_ns()) < NEAR_NS
    client.tick(boot_time_s())
    assert abs(client.swarm_ns() - real_ns() - AHEAD_NS) < NEAR_NS
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + set_ns)
    assert abs(client.swarm_ns() - real_ns() - AHEAD_NS) < NEAR_NS
    client.tick(boot_time_s() + 60.0)  # a fresh exchange changes nothing either
    assert abs(client.swarm_ns() - real_ns() - AHEAD_NS) < NEAR_NS
    assert not caller.counts["clock_unanswered"]


def test_before_the_first_answer_it_is_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller()
    client = ClockClient(caller, caller, ("drone_01",))  # type: ignore[arg-type]
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 3600 * 10**9)
    assert client.swarm_ns() - real_ns() > 3599 * 10**9
