"""`chimera command`: orders of an operator to a running swarm, signed with the operator's key.

Flight orders go to the leader as mission steps and are checked there like a whole mission; `rotate` and
`evict` go to the active crypto node. For these the operator joins the swarm first (a second or two). `stop`
goes directly to the followers, without epoch or leader.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chimera_ros import key_passphrase
from chimera_ros.command_line import OneSentenceParser, member_name, number, ros_namespace, some_path
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.machine import environment, ros_faults
from chimera_ros.formats.display import is_plain
from chimera_ros.formats.text import excerpt
from chimera_ros.ros.environment import RANGE, domain_of
from chimera_ros.swarm import NAMESPACE, OPERATOR_MEMBER
from chimera_ros.terminal.lines import print_json, print_line

if TYPE_CHECKING:
    from chimera_ros.ros.session import SecureSession

JOIN_S = 20.0
WAIT_S = 10.0  # for another `chimera command` of the same operator
STOP_WAIT_S = 1.0
STOP_S = 5.0
RETRY_S = 2.0  # a request or its response may be lost while DDS still matches the endpoints
REPLY_S = 15.0  # a leader on a loaded machine takes some seconds for a plan
MAX_REASON = 48  # RotateEpoch.srv
SHAPES = ("grid", "line", "vee", "circle", "sphere")


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the orders and their options."""
    common = OneSentenceParser(add_help=False)
    add = common.add_argument
    add("--keystore", type=some_path, metavar="DIR", help="identities (default: the keystore of simulations)")
    add(
        "--operator",
        type=member_name,
        default=OPERATOR_MEMBER,
        metavar="NAME",
        help=f"member that signs (default {OPERATOR_MEMBER})",
    )
    add(
        "--namespace",
        type=ros_namespace,
        default=NAMESPACE,
        help=f"namespace of the swarm (default {NAMESPACE})",
    )
    add("--key-passphrase-file", type=some_path, metavar="FILE", help=key_passphrase.OPTION_HELP)
    add("--json", action="store_true", help="machine-readable output")
    verbs = parser.add_subparsers(dest="order", required=True, metavar="ORDER")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, parents=[common])

    takeoff = verb("takeoff", "take off with all drones")
    takeoff.add_argument("--height", type=number, required=True, metavar="M", help="height above the datum")
    verb("land", "fly to free pads and land")
    verb("rtl", "return each drone to its own pad and land")
    hold = verb("hold", "hold position")
    hold.add_argument("--seconds", type=number, default=0.0, metavar="S")
    goto = verb("goto", "move the formation")
    for axis in ("east", "north", "up"):  # one argument each: argparse cannot report a tuple as missing
        goto.add_argument(axis, type=number, metavar=axis.upper(), help="metres")
    goto.add_argument("--by", action="store_true", help="relative to the present position")
    formation = verb("formation", "form up")
    formation.add_argument("shape", choices=SHAPES)
    formation.add_argument("--spacing", type=number, default=4.0, metavar="M")
    formation.add_argument(
        "--center", nargs=3, type=number, default=(0.0, 0.0, 10.0), metavar=("E", "N", "U"), help="metres"
    )
    formation.add_argument("--heading", type=number, default=0.0, metavar="DEG", help="clockwise from north")
    stop = verb("stop", "stop drones directly, without leader or epoch")
    stop.add_argument("drones", nargs="*", type=member_name, metavar="DRONE", help="names; none: all drones")
    stop.add_argument("--level", choices=("hold", "land", "kill"), default="hold")
    evict = verb("evict", "evict a member: its keys open nothing that is sent afterwards")
    evict.add_argument("member", type=member_name, metavar="NAME", help="for example drone_07")
    rotate = verb("rotate", "rotate the group key: the crypto node issues a new epoch")
    rotate.add_argument(
        "--reason", type=_reason, default="operator", metavar="TEXT", help=f"{MAX_REASON} characters at most"
    )


def run(arguments: argparse.Namespace) -> int:
    """Send one order and print the response. Returns 0 if it was accepted, 1 if not."""
    check(arguments)
    operator = _Operator(arguments)
    try:
        accepted, text = operator.stop() if arguments.order == "stop" else operator.order()
    finally:
        operator.close()
    if arguments.json:
        print_json({"order": arguments.order, "accepted": accepted, "reason": text})
    else:
        print_line(text, error=not accepted)
    return 0 if accepted else 1


def check(arguments: argparse.Namespace) -> None:
    """Raises CommandFailed for an order that no leader would accept, and where ROS cannot start."""
    from chimera_ros.flight.planning.mission_file import MissionError, parse_steps

    if arguments.order == "stop":
        check_drones(arguments.drones, enrolled_drones(keystore_of(arguments)))
    elif arguments.order not in ("evict", "rotate"):
        try:
            parse_steps(steps_yaml(arguments), "the order")
        except MissionError as error:
            raise CommandFailed(str(error), MISUSE) from None
    faults = ros_faults()
    if faults:
        raise CommandFailed(str(faults[0]), MISUSE)
    check_keystore(arguments)


def check_keystore(arguments: argparse.Namespace) -> None:
    """Raises CommandFailed for a keystore of simulations that could reach other machines; a stop passes."""
    from chimera_ros.crypto.keystore.keystore import Keystore

    keystore = keystore_of(arguments)
    reach = environment()[RANGE]
    if arguments.order == "stop" or reach in ("LOCALHOST", "OFF") or not Keystore(keystore).simulation_only:
        return
    raise CommandFailed(
        f"{keystore} is a keystore for simulations (the authority's key lies in it without a passphrase), "
        f"and {RANGE} is {excerpt(reach)}: it commands swarms on this machine only; give --keystore, or set "
        f"{RANGE}=LOCALHOST",
        MISUSE,
    )


def keystore_of(arguments: argparse.Namespace) -> Path:
    """The keystore that holds the operator's identity."""
    from chimera_ros.commands.swarm_setup import simulation_keystore

    return arguments.keystore or simulation_keystore(arguments.namespace)


def operator_passphrase(arguments: argparse.Namespace) -> bytes | None:
    """The passphrase of the operator's key: from a file, systemd or the terminal; None if it needs none."""
    from chimera_ros.crypto.keystore.key_file import is_encrypted

    key = keystore_of(arguments) / "members" / arguments.operator / "identity.key"
    try:
        found = key_passphrase.find(arguments.key_passphrase_file or "")
        if found is None and is_encrypted(key):
            return key_passphrase.ask(f"passphrase of the key of {arguments.operator}: ")
        return found
    except key_passphrase.PassphraseError as error:
        raise CommandFailed(str(error), MISUSE) from None


def _reason(text: str) -> str:
    if not is_plain(text) or not 1 <= len(text) <= MAX_REASON:
        raise argparse.ArgumentTypeError(
            f"'{excerpt(text)}' is not a reason: 1 to {MAX_REASON} printable characters"
        )
    return text


def steps_yaml(arguments: argparse.Namespace) -> str:
    """The order as mission steps (JSON, which is YAML)."""
    step: Any
    match arguments.order:
        case "takeoff":
            step = {"takeoff": {"height_m": arguments.height}}
        case "land":
            step = {"land": {"pads": "any"}}
        case "rtl":
            step = {"land": {"pads": "own"}}
        case "hold":
            step = {"hold": {"seconds": arguments.seconds}}
        case "goto":
            step = {
                "goto": {
                    "by_m" if arguments.by else "center_m": [arguments.east, arguments.north, arguments.up]
                }
            }
        case "formation":
            step = {
                "formation": {
                    "shape": arguments.shape,
                    "spacing_m": arguments.spacing,
                    "center_m": list(arguments.center),
                    "heading_deg": arguments.heading,
                }
            }
        case other:
            raise CommandFailed(f"there is no order {other!r}", MISUSE)
    return json.dumps([step])


def enrolled_drones(keystore: Path) -> frozenset[str]:
    """Drones in a keystore; none if it cannot be listed completely: that must not prevent a stop."""
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.keystore import Keystore
    from chimera_ros.crypto.trust.roles import Role

    try:
        members, damaged = Keystore(keystore).entries()
    except CryptoError:
        return frozenset()
    return frozenset(member.name for member in members if member.role is Role.DRONE and not damaged)


def check_drones(wanted: Sequence[str], known: frozenset[str]) -> None:
    """Raises CommandFailed for an invalid name, or one that is not among `known` drones.

    An operator's station may hold no certificate but its own: then `known` is empty and every name passes.
    """
    for name in wanted:
        try:
            member_name(name)
        except argparse.ArgumentTypeError as error:
            raise CommandFailed(str(error), MISUSE) from None
        if known and name not in known:
            raise CommandFailed(f"the keystore has no drone {name!r}; names look like drone_07", MISUSE)


class _Operator:
    """A short-lived node with the identity of an operator."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        os.environ.update(environment())
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from chimera_ros.crypto.errors import CryptoError
        from chimera_ros.ros.executor import Spinner
        from chimera_ros.ros.log_files import init_arguments
        from chimera_ros.ros.session import SecureSession, SessionConfig

        self._arguments = arguments
        passphrase = operator_passphrase(arguments)
        try:
            rclpy.init(args=init_arguments([]), signal_handler_options=SignalHandlerOptions.NO)
            self._node = rclpy.create_node(
                f"chimera_command_{os.getpid()}",
                namespace=arguments.namespace,
                start_parameter_services=False,
            )
        except Exception as error:  # rclpy raises many types
            rclpy.try_shutdown()
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise CommandFailed(f"ROS cannot start with these settings: {why}", MISUSE) from None
        self._spinner = Spinner()
        self._spinner.add(self._node)
        try:
            self._session: SecureSession = SecureSession(
                self._node,
                member=arguments.operator,
                keystore=keystore_of(arguments),
                passphrase=passphrase,
                # Nothing may prevent a stop; other orders of one operator wait for each other.
                config=SessionConfig(lock_wait_s=STOP_WAIT_S, lock_required=False)
                if arguments.order == "stop"
                else SessionConfig(lock_wait_s=WAIT_S),
                autostart=False,
            )
        except CryptoError as error:
            self.close()
            raise CommandFailed(str(error)) from None

    def close(self) -> None:
        """Leave the swarm."""
        import rclpy

        session = getattr(self, "_session", None)
        if session is not None:
            session.close()
        self._spinner.close()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def stop(self) -> tuple[bool, str]:
        """Send a stop and wait until every named drone has acknowledged."""
        arguments = self._arguments
        known = enrolled_drones(keystore_of(arguments))
        done: list[frozenset[str]] = []
        self._session.start()
        try:
            self._session.stop_drones(arguments.level, arguments.drones, done.append, timeout_s=STOP_S)
        except PermissionError as error:
            raise CommandFailed(str(error)) from None
        self._until(lambda: bool(done), STOP_S + 2.0)
        acknowledged = done[0] if done else frozenset()
        missing = sorted(set(arguments.drones) - acknowledged)
        if missing:
            return False, f"stop ({arguments.level}): no acknowledgement from {', '.join(missing)}"
        if not acknowledged:
            return (
                False,
                f"stop ({arguments.level}): no drone has acknowledged; is a swarm running?",
            )
        text = f"stop ({arguments.level}): acknowledged by {', '.join(sorted(acknowledged))}"
        rest = sorted(known - acknowledged) if not arguments.drones else []
        return True, text + (
            f"; no acknowledgement from {', '.join(rest)} (enrolled, perhaps not flying)" if rest else ""
        )

    def order(self) -> tuple[bool, str]:
        """Join the swarm and call the leader, or the active crypto node."""
        from chimera_ros.ros import names
        from chimera_ros.srv import EvictMember, RotateEpoch, SubmitSteps

        arguments = self._arguments
        request: Any
        if arguments.order == "rotate":
            service, kind = names.CRYPTO_ROTATE, RotateEpoch
            request = RotateEpoch.Request(reason=arguments.reason)
        elif arguments.order == "evict":
            service, kind = names.CRYPTO_EVICT, EvictMember
            request = EvictMember.Request(member=arguments.member)
        else:
            service, kind = names.LEADER_STEPS, SubmitSteps
            # The number lets the leader distinguish a retransmission from a second order.
            request = SubmitSteps.Request(steps_yaml=f"{steps_yaml(arguments)}\n# order {uuid.uuid4()}\n")
        self._session.start()
        try:
            client = self._session.create_client(kind, service)
        except PermissionError as error:
            raise CommandFailed(str(error)) from None
        if not self._until(lambda: self._session.ready and client.service_is_ready(), JOIN_S):
            raise CommandFailed(
                f"{arguments.operator} could not join within {JOIN_S:g} s; is a swarm running in ROS domain "
                f"{domain_of(os.environ)} with this keystore?"
            )
        before = self._evictions()
        answers: list[Any] = []
        failure = "timed out"

        def take(reply: Any) -> None:
            nonlocal failure
            if reply.response is None:
                failure = reply.failure
            else:
                answers.append(reply.response)

        deadline = time.monotonic() + REPLY_S
        while (left_s := deadline - time.monotonic()) > 0.0:
            client.call_async(request, left_s, take)
            # The response to an eviction may be sealed under keys that are wiped here already: our own epoch
            # shows the result as well.
            self._until(lambda: bool(answers) or self._is_evicted(before), min(RETRY_S, left_s))
            if self._is_evicted(before):
                return True, f"{arguments.member} was evicted with epoch {self._session.epoch()}"
            if answers:
                answer = answers[0]
                return bool(answer.accepted), answer.reason or ("accepted" if answer.accepted else "refused")
        return False, f"no response from {service}: {failure}"

    def _evictions(self) -> frozenset[bytes]:
        """Eviction list of the epoch that we send under."""
        epoch = self._session.epoch()
        announcement = self._session.host.announcement(epoch) if epoch is not None else None
        return frozenset(announcement.head.evictions if announcement else ())

    def _is_evicted(self, before: frozenset[bytes]) -> bool:
        """True if our epoch's eviction list has grown since `before` and its roster lacks the member."""
        if self._arguments.order != "evict" or self._evictions() <= before:
            return False
        return all(entry.name != self._arguments.member for entry in self._session.host.roster())

    def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        self._spinner.spin(until=lambda: condition() or time.monotonic() > deadline)
        return condition()
