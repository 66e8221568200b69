"""Members that are alive in a ROS domain, seen without joining it.

Every member's process offers its certificate to late joiners on `crypto/certificates`, as long as it lives;
one counts if this keystore's authority has issued it and it is valid. Crypto nodes send beats three times a
second, which arrive sooner; one counts if it is signed with the key of a certificate in this keystore.

Run as a process of its own (`python -m chimera_ros.ros.live_members KEYSTORE NAMESPACE NAME...`), because
what rclpy and DDS leave behind in a process (threads, memory) must not stay in one that goes on to supervise
a flight; it prints JSON.

Not handled: another namespace, and recordings replayed by somebody else, which count as well: they can
prevent a start, not disturb a flight.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable
from functools import partial
from typing import Final

from chimera_ros.crypto.errors import CryptoError, KeystoreError, Rejected
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.messages.body import CONTEXT_OF
from chimera_ros.crypto.messages.control import Beat
from chimera_ros.crypto.trust.identity import CertificateError, CertifiedMember, Trust
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.ros.log_files import WITHOUT_LOG_FILES
from chimera_ros.terminal.lines import print_json

LISTEN_S: Final = 3.5  # DDS finds endpoints in 0.5 s, or with its next announcement 3 s later
MORE_S: Final = 0.2  # after the first one, for the others
_MAX_MESSAGES: Final = 4096  # different ones; a signature check takes 0.2 ms


class LiveMembers:
    """Those of the wanted members whose certificates, or beats by `known` crypto nodes, are received."""

    def __init__(
        self, trust: Trust, wanted: Collection[str], wall_ns: int, known: Iterable[CertifiedMember] = ()
    ) -> None:
        self._trust = trust
        self._known = {member.fingerprint: member for member in known if member.role is Role.CRYPTO}
        self._wanted = frozenset(wanted)
        self._wall_ns = wall_ns
        self._seen: set[bytes] = set()
        self.found: set[str] = set()

    @property
    def complete(self) -> bool:
        """True if every member that is looked for was found."""
        return self.found == self._wanted

    def take(self, message: ControlMessage) -> None:
        """A certificate or beat from the network. Never raises on what it contains."""
        content = message.parts[0]
        if content in self._seen or len(self._seen) >= _MAX_MESSAGES:
            return
        self._seen.add(content)
        try:
            if message.kind is ControlKind.CERTIFICATE:
                member = self._trust.certify(content, self._wall_ns)
            else:
                member = self._known[Beat.parse(content, self._trust.swarm).issuer]
                if not member.verify(message.parts[1], content, CONTEXT_OF[ControlKind.BEAT]):
                    return
        except (CertificateError, Rejected, KeyError):
            return
        if member.name in self._wanted:
            self.found.add(member.name)


def listen(live: LiveMembers, namespace: str, listen_s: float = LISTEN_S) -> None:
    """Listen in the environment's ROS domain, in a context of its own. Raises what rclpy raises.

    Takes up to twice `listen_s` if there are publishers, of which none offers a member that is looked for.
    """
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from . import names, qos
    from .cdr import CdrError
    from .control_topics import TOPICS, decode_control

    def receive(kind: ControlKind, data: bytes) -> None:
        try:
            live.take(decode_control(kind, data))
        except CdrError:
            return

    context = Context()
    rclpy.init(args=[*WITHOUT_LOG_FILES], context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(
            f"chimera_live_members_{os.getpid()}",
            context=context,
            enable_rosout=False,
            start_parameter_services=False,
        )
        # A reliable reader would wait for earlier beats before it delivers one.
        for kind, profile in (
            (ControlKind.BEAT, qos.best_effort()),
            (ControlKind.CERTIFICATE, qos.for_control(names.CRYPTO_CERTIFICATES, reader=True)),
        ):
            channel, message_type = TOPICS[kind]
            topic = names.topic(channel, namespace)
            node.create_subscription(message_type, topic, partial(receive, kind), profile, raw=True)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        began = time.monotonic()
        end = began + listen_s
        while not live.complete and (left_s := end - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=min(left_s, MORE_S))
            if live.found:
                end = min(end, time.monotonic() + MORE_S)
            elif node.count_publishers(names.topic(names.CRYPTO_CERTIFICATES, namespace)):
                end = began + 2 * listen_s  # something offers certificates, which are under way
        executor.shutdown()
        node.destroy_node()
    finally:
        context.try_shutdown()


def _certificate(store: Keystore, name: str) -> CertifiedMember | None:
    try:
        return store.certificate(name)
    except KeystoreError:
        return None


def main(arguments: list[str]) -> int:
    """Print the live ones of the named members, or why nobody could listen, as JSON."""
    keystore, namespace, *wanted = arguments
    wall_ns = time.time_ns()
    try:
        store = Keystore(keystore)
        known = [member for name in wanted if (member := _certificate(store, name)) is not None]
        live = LiveMembers(store.load_trust(wall_ns=wall_ns), wanted, wall_ns, known)
        listen(live, namespace)
    except (CryptoError, ImportError) as error:
        print_json({"skipped": str(error)})
    except Exception as error:  # invalid settings: rclpy raises many types
        print_json({"skipped": (str(error).splitlines() or [type(error).__name__])[0]})
    else:
        print_json({"live": sorted(live.found)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
