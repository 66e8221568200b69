"""Sealed against plain messages between two processes: added latency, interleaved, and throughput.

The message is a DroneTelemetry of 300 bytes (CDR). Latency is from before `publish` in one process to the
callback with the message object in the other, so that both include the conversion of the message. A
crypto node runs in a third process. What needs no second process (crypto_pieces.py) comes last.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Child, Orders, OtherLoad, Result, emit, make_keystore, percentile, private_domain

MESSAGE_BYTES = 300
RATE_HZ = 200.0
WINDOW = 48  # messages under way in the throughput test; below the depth of the readers
MEMBERS = {"crypto_0": "crypto", "drone_01": "drone", "leader_0": "leader"}
CHANNEL = "drone_01/telemetry"
SIGNED = "drone_01/ack"
RAW = "drone_01/raw/telemetry"


def main() -> int:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=("crypto", "sender", "receiver"), help=argparse.SUPPRESS)
    parser.add_argument("--keystore", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        {"crypto": crypto, "sender": sender, "receiver": receiver}[arguments.role](arguments.keystore)
        return 0
    import crypto_pieces  # needs chimera_ros, which `--help` does not

    with private_domain(), tempfile.TemporaryDirectory() as folder:
        load = OtherLoad()
        results = measure(
            make_keystore(Path(folder) / "keys", MEMBERS, telemetry_hz=1e6), quick=arguments.quick
        )
        results += [*crypto_pieces.measure(quick=arguments.quick), load.own(), load.result()]
    emit("secure", results, as_json=arguments.json)
    return 0


def measure(keystore: Path, *, quick: bool) -> list[Result]:
    """Start the three processes, run all parts, return the rows."""
    children = {
        role: Child(str(Path(__file__)), "--role", role, "--keystore", str(keystore))
        for role in ("crypto", "receiver", "sender")
    }
    try:
        for role in ("receiver", "sender"):
            children[role].wait_for("ready")
        send, receive = children["sender"], children["receiver"]
        pairs = 3000 if quick else 12000
        send.request(part="latency", pairs=pairs)
        send.wait_for("latency_sent", 30.0 + 2 * pairs / RATE_HZ)
        receive.request(part="latency")
        latency = receive.wait_for("latency_us")["latency_us"]
        figures: dict[str, dict[str, Any]] = {}
        for count, kind in enumerate(("plain", "sealed", "sealed bytes"), start=1):
            send.request(part="throughput", kind=kind, seconds=3.0 if quick else 8.0)
            figures[kind] = send.wait_for("throughput", 60.0, count)["throughput"]
        # The receiver's own counters must agree with what was acknowledged.
        receive.request(part="opened")
        opened = receive.wait_for("opened")
        claimed = sum(figures[kind]["sent"] for kind in ("sealed", "sealed bytes"))
        if opened["opened"] < claimed or opened["rejected"]:
            raise SystemExit(
                f"{claimed} messages were sent, but {opened['opened']} opened: {opened['rejected']}"
            )
        return _rows(latency, figures)
    finally:
        for child in children.values():
            child.close()


def _rows(latency: dict[str, list[float]], figures: dict[str, dict[str, Any]]) -> list[Result]:
    def at(kind: str, percent: float) -> float | None:
        return percentile(latency[kind], percent)

    def added(kind: str, percent: float) -> float | None:
        with_it, without = at(kind, percent), at("plain", percent)
        return None if with_it is None or without is None else with_it - without

    rows = [
        Result("sealed, added latency p50", added("sealed", 50), "µs", ("<=", 120.0)),
        Result("sealed, added latency p99", added("sealed", 99), "µs", ("<=", 400.0)),
        Result("sealed, sent and opened", figures["sealed"]["rate_hz"], "1/s", (">=", 15000.0)),
        Result("sealed, lost at that rate", figures["sealed"]["lost"], "", ("<=", 0.0)),
    ]
    for kind in ("plain", "sealed", "signed"):
        for percent in (50, 99):
            rows.append(Result(f"{kind}, latency p{percent}", at(kind, percent), "µs"))
    rows += [
        Result("sealed and signed, added latency p50", added("signed", 50), "µs"),
        Result("plain, sent and received", figures["plain"]["rate_hz"], "1/s"),
        Result("sealed, ready-made bytes, sent and opened", figures["sealed bytes"]["rate_hz"], "1/s"),
        Result("samples of each latency", float(len(latency["sealed"])), ""),
        Result("messages lost in the latency test", float(latency["lost"][0]), ""),
    ]
    return rows


# The processes -----------------------------------------------------------------------------------------


def _start(keystore: str, member: str) -> tuple[Any, Any, Any]:
    import rclpy

    from chimera_ros.ros import SecureSession, Spinner

    rclpy.init()
    node = rclpy.create_node(f"{member}_bench", namespace="/chimera", start_parameter_services=False)
    spinner = Spinner()
    spinner.add(node)
    return node, SecureSession(node, member=member, keystore=keystore), spinner


def crypto(keystore: str) -> None:
    """The crypto node."""
    _, session, spinner = _start(keystore, "crypto_0")
    orders = Orders()
    spinner.spin(lambda: orders.closed)
    session.close()


def _message(message_type: Any) -> Any:
    from rclpy.serialization import serialize_message

    message = message_type(drone="drone_01")
    # The length of a string changes the size in steps of eight here, because of alignment.
    for size in range(200):
        message.reason = "x" * size
        if len(serialize_message(message)) >= MESSAGE_BYTES:
            return message
    raise AssertionError("the message cannot be made long enough")


def receiver(keystore: str) -> None:
    """Receives both kinds and notes latencies; acknowledges in the throughput test."""
    from chimera_ros.msg import CommandAck, DroneTelemetry
    from std_msgs.msg import UInt64

    from chimera_ros.ros import qos

    node, session, spinner = _start(keystore, "leader_0")
    orders = Orders()
    latency: dict[str, list[float]] = {"plain": [], "sealed": [], "signed": []}
    newest = {"plain": 0, "sealed": 0}
    receipts = node.create_publisher(UInt64, "bench/receipts", 100)
    counted = 0

    def note(kind: str) -> Any:
        times = latency[kind]

        def on_message(message: Any, *_sender: str) -> None:
            nonlocal counted
            if message.command_id:  # throughput: command_id counts from 1
                counted += 1
                if not message.command_id % 16:
                    receipts.publish(UInt64(data=counted))
                return
            if message.plan_id:  # latency: plan_id counts from 1
                times.append((time.monotonic_ns() - message.stamp_ns) * 1e-3)
                newest[kind] = message.plan_id

        return on_message

    def on_ack(message: Any, _sender: str) -> None:
        latency["signed"].append((time.monotonic_ns() - message.plan_id) * 1e-3)

    node.create_subscription(DroneTelemetry, "bench/plain", note("plain"), qos.for_subscription(CHANNEL))
    session.create_subscription(DroneTelemetry, CHANNEL, note("sealed"))
    session.create_subscription(CommandAck, SIGNED, on_ack)
    raw_counted = 0

    def on_raw(raw: Any) -> None:
        nonlocal raw_counted
        raw_counted += 1
        if not raw_counted % 16:
            receipts.publish(UInt64(data=raw_counted))

    session.create_subscription(DroneTelemetry, RAW, on_raw, raw=True)
    session.on_ready(lambda: orders.answer(ready=True))
    gc.collect()
    gc.freeze()

    def step() -> bool:
        nonlocal counted
        order = orders.take()
        if order is not None and order["part"] == "latency":
            lost = sum(newest[kind] - len(latency[kind]) for kind in newest)
            orders.answer(latency_us={**latency, "lost": [lost]})
        elif order is not None and order["part"] == "opened":
            status = session.status()
            orders.answer(opened=status["opened"], rejected=status["rejected"])
        return orders.closed

    spinner.spin(step)
    session.close()


def sender(keystore: str) -> None:
    """Sends on request."""
    from chimera_ros.msg import CommandAck, DroneTelemetry
    from rclpy.serialization import serialize_message
    from std_msgs.msg import UInt64

    from chimera_ros.ros import qos

    node, session, spinner = _start(keystore, "drone_01")
    orders = Orders()
    message = _message(DroneTelemetry)
    plain = node.create_publisher(DroneTelemetry, "bench/plain", qos.for_publisher(CHANNEL))
    sealed = session.create_publisher(DroneTelemetry, CHANNEL)
    signed = session.create_publisher(CommandAck, SIGNED)
    raw = session.create_publisher(DroneTelemetry, RAW)
    receipt = 0

    def on_receipt(note: Any) -> None:
        nonlocal receipt
        receipt = note.data

    node.create_subscription(UInt64, "bench/receipts", on_receipt, 100)

    def matched() -> bool:
        return session.ready and all(
            node.count_subscribers(topic) > 0 for topic in ("bench/plain", CHANNEL, SIGNED, RAW)
        )

    spinner.spin(lambda: matched() or orders.closed)
    end = time.monotonic() + 2.0  # discovery of the other direction
    spinner.spin(lambda: time.monotonic() > end)
    orders.answer(ready=True)
    gc.collect()
    gc.freeze()

    def latency_part(pairs: int) -> None:
        message.command_id = 0
        due = time.monotonic()

        def wait(gap_s: float) -> None:
            nonlocal due
            spinner.poll()  # the session's own business, outside of what is measured
            due = max(due + gap_s, time.monotonic())  # never several at once to catch up
            time.sleep(max(0.0, due - time.monotonic()))

        for number in range(1, pairs + 1):
            # Plain and sealed take turns at being first.
            for publisher in (plain, sealed) if number % 2 else (sealed, plain):
                wait(0.5 / RATE_HZ)
                message.plan_id = number
                message.stamp_ns = time.monotonic_ns()
                publisher.publish(message)
        # By themselves: making and checking a signature would delay whatever came next.
        ack = CommandAck(drone="drone_01", status=CommandAck.ACCEPTED)
        for _ in range(pairs // 10):
            wait(4.0 / RATE_HZ)
            ack.plan_id = time.monotonic_ns()
            signed.publish(ack)
        pause = time.monotonic() + 0.5
        spinner.spin(lambda: time.monotonic() > pause)
        orders.answer(latency_sent=pairs)

    def throughput_part(kind: str, seconds: float) -> dict[str, float]:
        nonlocal receipt
        publisher = {"plain": plain, "sealed": sealed, "sealed bytes": raw}[kind]
        payload = serialize_message(message)
        base = receipt if kind == "sealed" else 0
        receipt = base
        sent = 0

        def under_way() -> int:
            return sent - (receipt - base)

        def spin_until(most: int, limit_s: float) -> None:
            end = time.monotonic() + limit_s
            spinner.spin(lambda: under_way() <= most or time.monotonic() > end)

        began = time.monotonic()
        while time.monotonic() < began + seconds and under_way() <= WINDOW:  # more: something was lost
            for _ in range(16):
                sent += 1
                message.command_id = sent
                publisher.publish(payload if kind == "sealed bytes" else message)
            spin_until(WINDOW, 0.25)
        took = time.monotonic() - began
        spin_until(0, 0.5)
        return {"rate_hz": (receipt - base) / took, "lost": float(under_way()), "sent": sent}

    while not orders.closed:
        order = orders.take()
        if order is None:
            spinner.spin(lambda: bool(orders._waiting) or orders.closed)
        elif order["part"] == "latency":
            latency_part(order["pairs"])
        else:
            orders.answer(throughput=throughput_part(order["kind"], order["seconds"]))
    session.close()


if __name__ == "__main__":
    sys.exit(main())
