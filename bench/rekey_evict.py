"""Evictions one after the other: the order, and the captured member that tries all its keys."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from harness import Child, Orders, Progress, Result, percentile


def captives(evictions: int) -> list[str]:
    """Names of the members that will be evicted."""
    return [f"captive_{number:03d}" for number in range(evictions)]


def evict_members(
    key_server: Child, shards: list[Child], captor: Child, evictions: int, members: int
) -> list[Result]:
    """One captured member after the other joins, receives telemetry and is evicted."""
    ordered: list[tuple[int, int]] = []
    heard: list[tuple[int, int, int]] = []
    tried = 0
    progress = Progress("evictions", evictions)
    for number, name in enumerate(captives(evictions), start=1):
        progress.at(number - 1)
        captor.request(part="join", member=name)
        captor.wait_for("joined", 30.0, number)
        key_server.request(part="evict", member=name)
        answer = key_server.wait_for("evicted", 30.0, number)["evicted"]
        ordered.append(tuple(answer))
        time.sleep(0.6)
        captor.request(part="try")
        result = captor.wait_for("tried", 30.0, number)
        tried += result["tried"]
        heard += [(answer[0], *item) for item in result["opened"]]
    for child in shards:
        child.request(part="report")
    switched: dict[int, list[int]] = defaultdict(list)
    for child in shards:
        for epoch, at_ns in child.wait_for("heard", 20.0, 2)["switched"]:
            switched[epoch].append(at_ns)
    durations = [
        (max(switched[epoch]) - at_ns) * 1e-6 for epoch, at_ns in ordered if len(switched[epoch]) == members
    ]
    # Opened with a key of the evicting epoch or later, or heard 0.1 s after everybody had switched.
    leaked = sum(
        1
        for epoch, used, at_ns in heard
        if used >= epoch or at_ns > max(switched[epoch], default=0) + 100_000_000
    )
    return [
        Result("eviction: order to last switched, p50", percentile(durations, 50), "ms"),
        Result("eviction: order to last switched, p99", percentile(durations, 99), "ms", ("<", 100.0)),
        Result("eviction: largest", max(durations, default=None), "ms"),
        Result("evictions", float(evictions), ""),
        Result(
            "evictions that not every honest member followed",
            float(evictions - len(durations)),
            "",
            ("<=", 0.0),
        ),
        Result("packets that the captured members tried all their keys on", float(tried), ""),
        Result("of these opened although sent after the eviction", float(leaked), "", ("<=", 0.0)),
    ]


def captured(node: Any, operator: Any, spinner: Any, keystore: str, drones: list[str]) -> None:
    """An operator, and captured members one after the other: each keeps every key and opens what it can."""
    from chimera_ros.msg import SecureEnvelope

    from chimera_ros.crypto.errors import Rejected, RejectReason
    from chimera_ros.crypto.wire import Envelope
    from chimera_ros.ros import SecureSession, names, qos
    from chimera_ros.ros.cdr import decode_envelope

    orders = Orders()
    packets: list[tuple[int, str, bytes]] = []
    kept: dict[int, Any] = {}
    session: Any = None
    name = ""

    def hear(channel: str) -> None:
        node.create_subscription(
            SecureEnvelope,
            names.topic(channel),
            lambda data: packets.append((time.monotonic_ns(), channel, data)),
            qos.for_subscription(channel),
            raw=True,
        )

    for drone in drones:
        hear(f"{drone}/telemetry")

    def keep(sessions: Any) -> None:
        wipe = sessions._wipe

        def wipe_nothing(number: int) -> None:
            kept[number] = sessions.open[number]
            kept[number].close = lambda: None
            wipe(number)

        sessions._wipe = wipe_nothing

    def join(member: str) -> None:
        nonlocal session, name
        if session is not None:
            session.close()
        kept.clear()
        name = member
        session = SecureSession(node, member=member, keystore=keystore)
        keep(session.host.context.sessions)
        spinner.spin(lambda: (session.ready and operator.ready) or orders.closed)
        packets.clear()
        orders.answer(joined=member)

    def attempt() -> None:
        opened: list[tuple[int, int]] = []
        type_name = "chimera_ros/msg/DroneTelemetry"
        heard = packets[:]
        held = {**kept, **session.host.context.sessions.open}
        for at_ns, channel, data in heard:
            envelope = Envelope(*decode_envelope(data))
            for number, epoch in held.items():
                for claimed in {envelope.epoch, number}:
                    guess = envelope._replace(epoch=claimed)
                    try:
                        epoch.open(channel, type_name, guess, time.time_ns(), lambda _: None)
                    except Rejected as refusal:
                        if refusal.reason is not RejectReason.AGE:
                            continue  # AGE is checked only after a key has opened the packet
                    opened.append((number, at_ns))
        orders.answer(tried=len(heard), opened=opened)

    def step() -> bool:
        order = orders.take()
        if order is not None and order["part"] == "join":
            join(order["member"])
        elif order is not None:
            attempt()
        return orders.closed

    ticker = node.create_timer(0.02, lambda: None)
    spinner.spin(step)
    ticker.cancel()
    session.close()
    operator.close()
