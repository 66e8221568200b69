"""Secure session: makes a rclpy node one or several members of the swarm.

    session = SecureSession(node, member="drone_07", keystore="keys")
    pub = session.create_publisher(PoseStamped, "survey/pose")
    sub = session.create_subscription(PoseStamped, "survey/pose", on_pose)   # on_pose(message, sender)
    srv = session.create_service(Trigger, "survey/start", on_start)  # on_start(request, sender) -> response

`SecureSession` is the public interface; it creates the protocol core (crypto/) and its parts.
`session_driver` runs them. All callbacks run in the node's executor. The protocol is specified in
docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rclpy.node import Node

from chimera_ros.crypto.effects import (
    Effect,
    Severity,
    StopOrder,
)
from chimera_ros.crypto.evidence.ledgers import Evidence
from chimera_ros.crypto.key_server.evictions import EvictionVerdict
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.watch import KeystoreWatch
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.member.security_state import SecurityState
from chimera_ros.crypto.primitives import providers
from chimera_ros.crypto.trust.identity import CertifiedMember, MemberIdentity
from chimera_ros.crypto.trust.policy import Policy
from chimera_ros.crypto.trust.roles import Role

from .checkpoint_topics import CheckpointCallback
from .context import Retry, SessionContext
from .control_topics import subscribed_kinds
from .diagnostics import security_state
from .endpoint_registry import EndpointRegistry
from .endpoints import SecurePublisher, SecureSubscription
from .identity_locks import IdentityLocks
from .lifecycle import SetupError, boot_time_s
from .services import SecureClient, SecureService
from .session_config import SessionConfig, host_config
from .session_driver import SessionDriver
from .stop_call import StopCall


class SecureSession:
    """Membership of one or several members in a swarm; creates secure publishers, subscriptions and services.

    A process has one session for all members it hosts, so that each packet is opened and delivered once. If
    the member has the role *crypto*, the session also runs the key server.

    Args:
        node: any rclpy node; its executor runs everything.
        member: the member's name in the keystore; or
        members: several names.
        keystore: directory created by `chimera keys create`.
        namespace: swarm namespace; the node's own if None.
        passphrase: of the members' key files, where they are encrypted.
        autostart: join at once. False: nothing is sent before `start()`.

    Raises:
        KeystoreError: a key or certificate is missing, unsafe, expired or of another swarm; names the remedy.
        IdentityInUse: another process of this machine uses a member's identity; names its process id.
        ValueError: no member, or a crypto member beside others.
    """

    def __init__(
        self,
        node: Node,
        member: str | None = None,
        *,
        members: Sequence[str] = (),
        keystore: str | Path,
        namespace: str | None = None,
        passphrase: bytes | None = None,
        config: SessionConfig | None = None,
        autostart: bool = True,
    ) -> None:
        chosen = tuple(dict.fromkeys((*(() if member is None else (member,)), *members)))
        if not chosen:
            raise ValueError("a session needs the name of at least one member")
        config = config if config is not None else SessionConfig()
        if config.crypto_provider:
            providers.select(config.crypto_provider)
        store = Keystore(keystore)
        wall_ns = time.time_ns()
        trust = store.load_trust(wall_ns=wall_ns)
        identities = [
            store.load_identity(name, wall_ns=wall_ns, passphrase=passphrase, trust=trust) for name in chosen
        ]
        stores = {name: store.state_store(name) for name in chosen}
        self._locks = IdentityLocks(store, chosen, config.lock_wait_s, config.lock_required)
        with ExitStack() as undo:
            undo.callback(self._locks.release)
            host_options = config.host
            self.key_server: KeyServer | None = None
            self._identities = {identity.name: identity for identity in identities}
            self.authority = trust.authority  # the swarm's root certificate
            roles = {identity.role for identity in identities}
            if Role.CRYPTO in roles:
                if len(identities) > 1:
                    raise ValueError(
                        f"{chosen[0]}: a crypto member is hosted alone, not with {len(chosen) - 1} others"
                    )
                self.key_server = KeyServer(
                    identities[0],
                    trust,
                    stores[chosen[0]],
                    config=config.key_server,
                    host_config=host_options,
                )
                self.host: SecureHost = self.key_server.host
            else:
                host_options = replace(host_options, fallback=store.fallback())
                self.host = SecureHost(identities, trust, stores, config=host_options)
            self._context = SessionContext(
                node=node,
                namespace=namespace if namespace is not None else node.get_namespace(),
                members=chosen,
                host=self.host,
                key_server=self.key_server,
                swarm_ns=self.swarm_ns,
                rearm=self.rearm,
                perform_later=self.perform_later,
                retry_later=self.retry_later,
            )
            self.node = node
            self.namespace = self._context.namespace
            self.members = chosen
            self.counts = self._context.counts
            self.endpoints = EndpointRegistry(self._context, self.check_permission)
            self._driver = SessionDriver(
                self._context,
                self.endpoints,
                subscribed_kinds(roles, fallback=host_options.fallback is not None),
                KeystoreWatch(keystore, trust) if self.key_server is not None else None,
                self.security_state,
                config.synchronise_clock,
            )
            self.alarms = self._driver.alarms
            self.entropy: dict[str, str] = {}  # source -> state, for diagnostics; set by a crypto node
            if autostart:
                self.start()
            undo.pop_all()

    # Joining -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the swarm: open the control topics, offer certificates and keys. No effect when started."""
        self._driver.start()

    def close(self) -> None:
        """Leave the swarm: destroy every topic, erase all keys, release the identities."""
        try:
            self._driver.close()
        finally:
            self._locks.release()

    @property
    def ready(self) -> bool:
        """True if every hosted member has an epoch to send under."""
        return all(self.host.ready(name) for name in self.members)

    @property
    def policy(self) -> Policy:
        """The policy in force; a newer one may be received in flight."""
        return self.host.policy

    def member_ready(self, member: str) -> bool:
        """True if this hosted member has an epoch to send under."""
        return self.host.ready(member)

    def epoch(self, member: str | None = None) -> int | None:
        """Epoch under which a hosted member (the first if None) sends."""
        return self.host.epoch(member if member is not None else self.members[0])

    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as every hosted member can send (at once if so already)."""
        if self.ready:
            callback()
        else:
            self._driver.on_ready(callback)

    def on_switched(self, callback: Callable[[str, int], None]) -> None:
        """Call `callback(member, epoch)` whenever a hosted member switches to another epoch."""
        self._driver.on_switched(callback)

    def on_alarm(self, callback: Callable[[str, str], None]) -> None:
        """Call `callback(severity, text)` for every security alarm; info, warning or error."""
        self._driver.on_alarm(callback)

    def on_stop(self, callback: Callable[[StopOrder], None]) -> None:
        """Call `callback(order)` for a verified operator's stop; `order.targets` are hosted drones."""
        self._driver.on_stop(callback)

    @property
    def degraded(self) -> bool:
        """True while no beats are received and messages are sent under the fallback secret."""
        return self.host.degraded(time.time_ns())

    @property
    def in_charge(self) -> bool:
        """True if this is the active crypto node, which issues the epochs and answers the crypto services."""
        return self._context.active

    @property
    def stands_by(self) -> bool:
        """True if this is a standby crypto node."""
        return self._context.standby

    def on_checkpoint(self, callback: CheckpointCallback) -> None:
        """Call `callback(member, cdr)` for every verified checkpoint, in the checkpoint thread."""
        self._driver.checkpoints.on_checkpoint(callback)

    # Records -------------------------------------------------------------------------------------------

    def identity(self, member: str | None = None) -> MemberIdentity:
        """Certificate and signing key of a hosted member, for what it signs outside the session.

        Raises:
            ValueError: not hosted here, or None while several members are.
        """
        return self._identities[self._member(member)]

    def take_evidence(self) -> list[tuple[Evidence, CertifiedMember]]:
        """Keys that open the leaves of senders' checkpoints, each once, with the sender's certificate.

        Those whose certificate has not been received yet follow later. Empty unless `keep_evidence` is set.
        """
        waiting = self.host.checkpoints.evidence
        found: list[tuple[Evidence, CertifiedMember]] = []
        if waiting is None:
            return found
        for _ in range(len(waiting)):
            item = waiting.popleft()
            sender = self.host.certificate(item.entry.fingerprint)
            if sender is None:
                waiting.append(item)
            else:
                found.append((item, sender))
        return found

    # Time ----------------------------------------------------------------------------------------------

    @staticmethod
    def now() -> float:
        """Seconds of the boot-time clock, the `now` of the cores."""
        return boot_time_s()

    def swarm_ns(self) -> int:
        """Swarm time: the active crypto node's wall clock as measured, ns since the Unix epoch."""
        clock = self._driver.clock
        return time.time_ns() if clock is None else clock.swarm_ns()

    @property
    def clock_offset_s(self) -> float:
        """Measured offset, crypto node minus own clock as set at the start, s; 0 before the first answer."""
        clock = self._driver.clock
        return 0.0 if clock is None else clock.filter.offset_s

    @property
    def clock_error_s(self) -> float:
        """Largest error that the offset can have, s; infinite before the first answer."""
        if self.in_charge:
            return 0.0
        clock = self._driver.clock
        return float("inf") if clock is None else clock.filter.error_s

    def clock_synchronised(self, limit_s: float = 0.02) -> bool:
        """True if the error of the offset is below `limit_s`."""
        if self.in_charge:
            return True
        clock = self._driver.clock
        return clock is not None and clock.filter.synchronised(limit_s, self.now())

    # Secure topics and services ------------------------------------------------------------------------

    def create_publisher(
        self, message_type: type[Any], channel: str, member: str | None = None, *, latched: bool = False
    ) -> SecurePublisher:
        """A publisher whose messages are encrypted.

        Args:
            message_type: any generated ROS message class.
            channel: logical name, relative to the swarm namespace, such as ``survey/pose``.
            member: the sender; may be omitted when the session hosts one member.
            latched: late joiners receive the last message; it is resealed after each switch.

        Raises:
            ValueError: not a channel name, or a member that is not hosted here.
            PermissionError: the policy does not let the member's role publish on this channel.
        """
        return self.endpoints.publisher(message_type, channel, self._member(member), latched)

    def create_subscription(
        self,
        message_type: type[Any],
        channel: str,
        callback: Callable[..., None],
        *,
        latched: bool = False,
        raw: bool = False,
    ) -> SecureSubscription:
        """Receive the messages of a channel, decrypted and verified.

        Args:
            message_type: the generated ROS message class.
            channel: logical name, as for `create_publisher`.
            callback: ``callback(message, sender)``, or with `raw` ``callback(RawMessage)``.
            latched: also receive the last message before; the publisher must be latched too.
            raw: deliver CDR bytes with the envelope and its metadata, for recorders.

        Raises:
            ValueError: not a channel name, or already subscribed here with another type.
        """
        return self.endpoints.subscription(message_type, channel, callback, latched, raw)

    def create_service(
        self,
        service_type: type[Any],
        service: str,
        callback: Callable[[Any, str], Any],
        member: str | None = None,
    ) -> SecureService:
        """Serve a secure service: ``callback(request, sender) -> response``; one server per service.

        A callback that takes longer returns a `services.Deferred` and sets its response later.

        Raises:
            ValueError: not a channel name, a member that is not hosted here, or the service is served
            already. PermissionError: the policy does not let the member's role respond.
        """
        return self.endpoints.service(service_type, service, callback, self._member(member))

    def create_client(self, service_type: type[Any], service: str, member: str | None = None) -> SecureClient:
        """A client of a secure service.

        Raises:
            ValueError: not a channel name, or a member that is not hosted here.
            PermissionError: the policy does not let the member's role call.
        """
        return self.endpoints.client(service_type, service, self._member(member))

    def stop_drones(
        self,
        level: str,
        targets: Sequence[str],
        on_done: Callable[[frozenset[str]], None],
        *,
        timeout_s: float = 8.0,
        operator: str | None = None,
    ) -> None:
        """Order drones to stop, repeated until all have acknowledged or `timeout_s` has passed.

        Args:
            level: ``hold``, ``land`` or ``kill``.
            targets: names of drones whose acknowledgement ends the call. Empty: all drones, until the
            time-out. on_done: called once with the names that acknowledged. operator: hosted member with the
            role operator; the first one if None.
        """
        if operator is None:
            operators = [item.name for item in self._identities.values() if item.role is Role.OPERATOR]
            if not operators:
                raise PermissionError("only a member with the role operator can order a stop")
            operator = operators[0]
        message = self.host.sign_stop(operator, level, list(targets), time.time_ns())
        self._driver.stop(StopCall(message, frozenset(targets), on_done, self.now(), timeout_s))

    def rotate(self, reason: str = "manual") -> None:
        """Crypto node only: announce a new epoch now."""
        self._driver.rotate(reason)

    def evict(self, name: str, operator: str, evidence: bytes) -> EvictionVerdict:
        """Crypto node only: evict a member, on the verified order of `operator`.

        `evidence` is the BLAKE3 hash of the operator's request envelope.
        """
        return self._driver.evict(name, operator, evidence)

    def status(self) -> dict[str, Any]:
        """Counters and state for diagnostics and reports, JSON-ready, without secrets."""
        counters = self.host.counters.snapshot()
        shell = dict(sorted(self.counts.items()))
        rejected = counters["rejected"]
        if isinstance(rejected, dict):
            # Every member receives the responses to all calls: not a rejection.
            shell["responses_to_others"] = rejected.pop("unmatched_response", 0)
        return {
            "suite": self.policy.suite,
            "members": list(self.members),
            "ready": self.ready,
            "epoch": {name: self.host.epoch(name) for name in self.members},
            **counters,
            "shell": shell,
            "clock": self._driver.clock.status() if self._driver.clock is not None else None,
            "key_server": self.key_server.status() if self.key_server is not None else None,
            "alarms": [text for _, text in self.alarms],
            "state": self.security_state().to_status(),
        }

    def security_state(self) -> SecurityState:
        """The present security state of this process, as on `/diagnostics`."""
        return security_state(
            self._context,
            entropy=self.entropy,
            alarms=(text for _, text in self.alarms),
            clock_offset_s=self.clock_offset_s,
            clock_error_s=self.clock_error_s,
        )

    def _member(self, member: str | None) -> str:
        if member is None:
            if len(self.members) > 1:
                raise ValueError(f"this session hosts {', '.join(self.members)}: name the member")
            return self.members[0]
        if member not in self._identities:
            raise ValueError(f"{member} is not hosted by this session, which hosts {', '.join(self.members)}")
        return member

    def check_permission(self, channel: str, member: str) -> None:
        """Raises PermissionError unless the policy lets the hosted member publish on the channel."""
        rule = self.policy.rule_for(channel)
        if rule is None:
            raise PermissionError(f"the swarm's policy has no rule for channel {channel}")
        role = self._identities[member].role
        if role not in rule.publish:
            allowed = ", ".join(sorted(item.value for item in rule.publish))
            raise PermissionError(
                f"the swarm's policy lets {allowed} publish on {channel}; {member} is a {role.value}"
            )

    def alarm(self, severity: Severity, text: str) -> None:
        """Raise a security alarm, as the protocol core does; from the executor's thread."""
        self._driver.alarm(severity, text)

    # Called by the parts -------------------------------------------------------------------------------

    def rearm(self) -> None:
        """Set the timer to the next thing that is due. May be called from any thread."""
        self._driver.rearm()

    def perform_later(self, effects: list[Effect]) -> None:
        """Perform effects in the node's executor. May be called from any thread."""
        self._driver.perform_later(effects)

    def retry_later(self, retry: Retry) -> None:
        """Call `retry` until it returns True. May be called from any thread."""
        self.endpoints.retry_later(retry)
        self._driver.rearm()


__all__ = ["SecureSession", "SessionConfig", "SetupError", "host_config"]
