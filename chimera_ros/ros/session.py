"""SecureSession: what turns a rclpy node into a member (or several) of the swarm.

    session = SecureSession(node, member="drone_07", keystore="keys")
    pub = session.create_publisher(PoseStamped, "survey/pose")
    sub = session.create_subscription(PoseStamped, "survey/pose", on_pose)   # on_pose(message, sender)
    srv = session.create_service(Trigger, "survey/start", on_start)          # on_start(request, sender) ->
    response

The session only wires: control topics to and from the protocol core, one timer, effects. All callbacks run
in the node's executor. What the core decides is specified in docs/protocol.md.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any, Final

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from chimera_ros.crypto.effects import (
    Effect,
    Installed,
    SecurityAlarm,
    Send,
    Severity,
    StopAcked,
    StopOrder,
    Switched,
)
from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.key_server.evictions import EvictionVerdict
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.watch import KeystoreWatch
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.primitives import providers
from chimera_ros.crypto.trust.identity import MemberIdentity
from chimera_ros.crypto.trust.policy import Policy
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind

from .checkpoint_topics import CheckpointCallback, CheckpointTopics
from .clock_sync import ClockClient, ClockServer
from .control_topics import ControlTopics
from .diagnostics import Diagnostics, security_state
from .endpoint_registry import EndpointRegistry
from .endpoints import SecurePublisher, SecureSubscription
from .lifecycle import SetupError, boot_time_s, where
from .retrying_publisher import RetryingPublisher
from .services import SecureClient, SecureService
from .session_config import SessionConfig, host_config
from .stop_call import StopCall

HOUSEKEEPING_S: Final = 1.0
_SOONEST_S: Final = 0.0002
_REST_S: Final = 0.02
_KEPT_ALARMS: Final = 32
_KEPT_EFFECTS: Final = 256


class SecureSession:
    """Joins a swarm in the name of one or several members; makes sealed publishers, subscriptions, services.

    A process makes one session for all members it hosts: each packet is then opened once and delivered once.
    If the member has the role *crypto* the session also runs the key server.

    Args:
        node: any rclpy node; its executor runs everything.
        member: the member's name in the keystore; or
        members: several names.
        keystore: directory made by `chimera keys create`.
        namespace: swarm namespace; the node's own if None.
        passphrase: of the members' key files, where they are encrypted.
        autostart: join at once. False: nothing is sent before `start()`.

    Raises:
        KeystoreError: a key or certificate is missing, unsafe, expired or of another swarm; says how to
        mend it. ValueError: no member, or a crypto member beside others.
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
        identities = [store.load_identity(name, wall_ns=wall_ns, passphrase=passphrase) for name in chosen]
        stores = {name: store.state_store(name) for name in chosen}

        self.node = node
        self.namespace = namespace if namespace is not None else node.get_namespace()
        self.members = chosen
        self.counts: Counter[str] = Counter()
        self.key_server: KeyServer | None = None
        self._roles = {identity.name: identity.role for identity in identities}
        if any(role is Role.CRYPTO for role in self._roles.values()):
            if len(identities) > 1:
                raise ValueError(
                    f"{chosen[0]}: a crypto member is hosted alone, not with {len(chosen) - 1} others"
                )
            self.key_server = KeyServer(
                identities[0], trust, stores[chosen[0]], config=config.key_server, host_config=config.host
            )
            self.host: SecureHost = self.key_server.host
        else:
            self.host = SecureHost(
                identities, trust, stores, config=replace(config.host, fallback=store.fallback())
            )
        self._watch = KeystoreWatch(keystore, trust) if self.key_server is not None else None
        self._core: SecureHost | KeyServer = self.key_server if self.key_server is not None else self.host

        self._lock = RLock()
        self._started = False
        self._closed = False
        self.endpoints = EndpointRegistry(self)
        self._stops: list[StopCall] = []
        self._installed: dict[str, int] = {}
        self._ready_members: set[str] = set()
        self._on_ready: list[Callable[[], None]] = []
        self._on_switched: list[Callable[[str, int], None]] = []
        self._on_alarm: list[Callable[[str, str], None]] = []
        self._on_stop: list[Callable[[StopOrder], None]] = []
        self.entropy: dict[str, str] = {}  # by source, for diagnostics; a crypto node's process fills it
        self.alarms: deque[tuple[str, str]] = deque(maxlen=_KEPT_ALARMS)
        heard = self._control_kinds(identities)
        if self.host.fallback is not None:
            heard.add(ControlKind.FALLBACK_HELLO)
        self._control = ControlTopics(self, heard)
        self._checkpoints = CheckpointTopics(self)
        self._diagnostics: Diagnostics | None = None
        self._later: deque[Effect] = deque(maxlen=_KEPT_EFFECTS)
        self._clock: ClockClient | None = None
        self._synchronise = config.synchronise_clock
        self._housekeeping_due = 0.0
        self._armed_at = float("inf")
        self._core_rests_until = 0.0
        self._timer = node.create_timer(
            HOUSEKEEPING_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()
        if autostart:
            self.start()

    @staticmethod
    def _control_kinds(identities: Iterable[MemberIdentity]) -> set[ControlKind]:
        """Which control topics this process has to hear."""
        roles = {identity.role for identity in identities}
        kinds = {
            ControlKind.KEY_REQUEST,
            ControlKind.ANNOUNCEMENT,
            ControlKind.SWITCH,
            ControlKind.BEAT,
            ControlKind.CERTIFICATE,
            ControlKind.TRUST,
            ControlKind.READY,
        }
        if Role.CRYPTO in roles:
            kinds.add(ControlKind.KEY_PACKAGE)
        if Role.DRONE in roles:
            kinds.add(ControlKind.STOP)
        if Role.OPERATOR in roles:
            kinds.add(ControlKind.STOP_ACK)
        return kinds

    # Joining -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the swarm: open the control topics, offer certificates and keys. Does nothing when started."""
        if self._started or self._closed:
            return
        self._started = True
        self._control.open()
        self._checkpoints.open()
        self._diagnostics = Diagnostics(self)
        with self._lock:
            self._perform(self._core.start(boot_time_s(), time.time_ns()))
        if self.key_server is not None:
            self._clock_server = ClockServer(self, self.members[0])
        if self._synchronise:
            self._clock = ClockClient(self, self.members)
        self.rearm()

    def close(self) -> None:
        """Leave: take every topic out of the node and let go of all keys."""
        if self._closed:
            return
        self._closed = True
        if self._started and self.key_server is None:
            with self._lock:
                self._perform(self.host.leave())
        self.node.destroy_timer(self._timer)
        self._checkpoints.close()
        self._control.close()
        if self._diagnostics is not None:
            self._diagnostics.destroy()
        self._clock = None
        self.endpoints.close()
        self.host.close()

    @property
    def ready(self) -> bool:
        """Whether every hosted member has an epoch to send under."""
        return all(self.host.ready(name) for name in self.members)

    @property
    def policy(self) -> Policy:
        """The policy in force; a newer one may come in flight."""
        return self.host.policy

    def member_ready(self, member: str) -> bool:
        """Whether this hosted member has an epoch to send under."""
        return self.host.ready(member)

    def epoch(self, member: str | None = None) -> int | None:
        """Epoch that a hosted member (the first if None) sends under."""
        return self.host.epoch(member if member is not None else self.members[0])

    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as every hosted member can send (at once if so already)."""
        if self.ready:
            callback()
        else:
            self._on_ready.append(callback)

    def on_switched(self, callback: Callable[[str, int], None]) -> None:
        """Call `callback(member, epoch)` whenever a hosted member begins to send under another epoch."""
        self._on_switched.append(callback)

    def on_alarm(self, callback: Callable[[str, str], None]) -> None:
        """Call `callback(severity, text)` for what a person should know; info, warning or error."""
        self._on_alarm.append(callback)

    def on_stop(self, callback: Callable[[StopOrder], None]) -> None:
        """Call `callback(order)` for a verified operator's stop; `order.targets` are hosted drones."""
        self._on_stop.append(callback)

    @property
    def degraded(self) -> bool:
        """Whether no crypto node is heard and messages go out under the fallback secret."""
        return self.host.degraded(time.time_ns())

    @property
    def in_charge(self) -> bool:
        """Crypto nodes: whether this one issues the epochs and answers the crypto services."""
        return self.key_server is not None and self.key_server.active

    @property
    def stands_by(self) -> bool:
        """Crypto nodes: whether another one does."""
        return self.key_server is not None and not self.key_server.active

    def on_checkpoint(self, callback: CheckpointCallback) -> None:
        """Call `callback(member, cdr)` for every verified checkpoint, in a thread of the session's own."""
        self._checkpoints.on_checkpoint(callback)

    # Time ----------------------------------------------------------------------------------------------

    @staticmethod
    def now() -> float:
        """Seconds of the boot-time clock, the `now` of the cores."""
        return boot_time_s()

    def swarm_ns(self) -> int:
        """Swarm time: the crypto node's wall clock as far as it was measured, ns since the Unix epoch."""
        return time.time_ns() if self._clock is None else self._clock.swarm_ns()

    @property
    def clock_offset_s(self) -> float:
        """Measured offset, crypto node minus own clock as set at the start, s; 0 before the first answer."""
        return 0.0 if self._clock is None else self._clock.filter.offset_s

    @property
    def clock_error_s(self) -> float:
        """Largest error that the offset can have, s; infinite before the first answer."""
        if self.in_charge:
            return 0.0
        return float("inf") if self._clock is None else self._clock.filter.error_s

    def clock_synchronised(self, limit_s: float = 0.02) -> bool:
        """Whether the offset is known to within `limit_s`."""
        if self.in_charge:
            return True
        return self._clock is not None and self._clock.filter.synchronised(limit_s, self.now())

    # Sealed topics and services ------------------------------------------------------------------------

    def create_publisher(
        self, message_type: type[Any], channel: str, member: str | None = None, *, latched: bool = False
    ) -> SecurePublisher:
        """A publisher of sealed messages.

        Args:
            message_type: any generated ROS message class.
            channel: logical name, relative to the swarm namespace, such as ``survey/pose``.
            member: in whose name; may be left out when the session hosts one member.
            latched: latecomers get the last message; it is resealed after each change of epoch.

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
        """Receive what members publish on a channel, opened and checked.

        Args:
            message_type: the generated ROS message class.
            channel: logical name, as for `create_publisher`.
            callback: ``callback(message, sender)``, or with `raw` ``callback(RawMessage)``.
            latched: also get the last message from before; the publisher must be latched too.
            raw: hand out the message's CDR bytes with everything known about them, for recorders.

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
        """Answer a sealed service: ``callback(request, sender) -> response``; one server per service.

        A callback that needs longer than a moment returns a `services.Deferred` and answers that later.

        Raises:
            ValueError: not a channel name, a member that is not hosted here, or the service is served
            already. PermissionError: the policy does not let the member's role answer.
        """
        return self.endpoints.service(service_type, service, callback, self._member(member))

    def create_client(self, service_type: type[Any], service: str, member: str | None = None) -> SecureClient:
        """A caller of a sealed service.

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
        """Order drones to stop, repeated until all have acknowledged or `timeout_s` is over.

        Args:
            level: ``hold``, ``land`` or ``kill``.
            targets: names of drones; the call waits for these. Empty addresses all and waits for the time
            to end. on_done: called once with the names that acknowledged. operator: hosted member with the
            role operator; the first one if None.
        """
        if operator is None:
            operators = [name for name, role in self._roles.items() if role is Role.OPERATOR]
            if not operators:
                raise PermissionError("only a member with the role operator can order a stop")
            operator = operators[0]
        message = self.host.sign_stop(operator, level, list(targets), time.time_ns())
        self._stops.append(StopCall(message, frozenset(targets), on_done, self.now(), timeout_s))
        self.rearm()

    def rotate(self, reason: str = "manual") -> None:
        """Crypto node only: announce a new epoch now."""
        if self.key_server is None:
            raise PermissionError("only the crypto node can rotate; others ask it through crypto/rotate")
        with self._lock:
            self._perform(self.key_server.rotate(reason, boot_time_s(), time.time_ns()))
        self.rearm()

    def evict(self, name: str, operator: str, evidence: bytes) -> EvictionVerdict:
        """Crypto node only: put a member out, on the verified word of `operator`.

        `evidence` is BLAKE3 of the operator's request envelope.
        """
        if self.key_server is None:
            raise PermissionError("only the crypto node can evict; operators ask it through crypto/evict")
        with self._lock:
            verdict = self.key_server.evict(name, operator, evidence, boot_time_s(), time.time_ns())
            self._perform(verdict.effects)
            if verdict.acted:  # our own switch, so that the answer goes out under the new epoch
                self._perform(self._core.tick(boot_time_s(), time.time_ns()))
        self.rearm()
        return verdict

    def status(self) -> dict[str, Any]:
        """What diagnostics and reports show; no secrets, JSON-ready."""
        counters = self.host.counters.snapshot()
        shell = dict(sorted(self.counts.items()))
        rejected = counters["rejected"]
        if isinstance(rejected, dict):
            # Everyone hears the answers to everyone's calls: that is no refusal of anything.
            shell["responses_to_others"] = rejected.pop("unmatched_response", 0)
        return {
            "suite": self.policy.suite,
            "members": list(self.members),
            "ready": self.ready,
            "epoch": {name: self.host.epoch(name) for name in self.members},
            **counters,
            "shell": shell,
            "clock": self._clock.status() if self._clock is not None else None,
            "key_server": self.key_server.status() if self.key_server is not None else None,
            "alarms": [text for _, text in self.alarms],
            "state": security_state(self).to_status(),
        }

    def _member(self, member: str | None) -> str:
        if member is None:
            if len(self.members) > 1:
                raise ValueError(f"this session hosts {', '.join(self.members)}: say which member is meant")
            return self.members[0]
        if member not in self._roles:
            raise ValueError(f"{member} is not hosted by this session, which hosts {', '.join(self.members)}")
        return member

    def check_permission(self, channel: str, member: str) -> None:
        """Raises PermissionError unless the policy lets the hosted member publish on the channel."""
        rule = self.policy.rule_for(channel)
        if rule is None:
            raise PermissionError(f"the swarm's policy has no rule for channel {channel}")
        role = self._roles[member]
        if role not in rule.publish:
            allowed = ", ".join(sorted(item.value for item in rule.publish))
            raise PermissionError(
                f"the swarm's policy lets {allowed} publish on {channel}; {member} is a {role.value}"
            )

    # Wiring --------------------------------------------------------------------------------------------

    def on_control(self, message: Any) -> None:
        """A control message from the network, decoded."""
        with self._lock:
            self._perform(self._core.handle(message, boot_time_s(), time.time_ns()))
            self._core_rests_until = 0.0
        self.rearm()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._control.send(message)
                case Installed(member, epoch, _):
                    self._installed[member] = epoch
                case Switched(member, epoch, _):
                    self._switched(member, epoch)
                case SecurityAlarm(severity, text):
                    self._alarm(severity, text)
                case StopOrder():
                    for callback in tuple(self._on_stop):
                        self.guarded("operator/stop", callback, effect)
                case StopAcked(drone, _, counter):
                    for call in self._stops:
                        call.acknowledged_by(drone, counter)

    def perform_later(self, effects: list[Effect]) -> None:
        """Perform effects in the node's executor. May be called from any thread."""
        if effects and not self._closed:
            self._later.extend(effects)
            self.rearm()

    def _switched(self, member: str, epoch: int) -> None:
        self.endpoints.reseal(member)
        for callback in tuple(self._on_switched):
            self.guarded("crypto/switch", callback, member, epoch)
        self._ready_members.add(member)
        if self._on_ready and self._ready_members.issuperset(self.members):
            waiting, self._on_ready = self._on_ready, []
            for ready in waiting:
                self.guarded("crypto/switch", ready)

    def alarm(self, severity: Severity, text: str) -> None:
        """Say what a person should know, as the protocol does; from the executor's thread."""
        self._alarm(severity, text)

    def _alarm(self, severity: str, text: str) -> None:
        self.alarms.append((severity, text))
        logger = self.node.get_logger()
        if severity == "error":
            logger.error(text)
        elif severity == "warning":
            logger.warning(text)
        else:
            logger.info(text)
        for callback in tuple(self._on_alarm):
            self.guarded("alarm", callback, severity, text)

    def guarded(self, what: str, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Run a user's callback. An exception is counted and logged by type, never by text."""
        try:
            return callback(*arguments)
        except Exception as error:
            self.counts["callback_errors"] += 1
            text = f"{what}: {type(error).__name__} in a callback at {where(error)}"
            self.node.get_logger().error(text)
            return None

    # The one timer -------------------------------------------------------------------------------------

    def rearm(self) -> None:
        """Set the one-shot timer to the next thing that is due. May be called from any thread."""
        with self._lock:
            self._rearm()

    def _rearm(self) -> None:
        if self._closed or not self._started:
            return
        due = self._housekeeping_due
        core = self._core.next_timer()
        if core is not None:
            due = min(due, max(core, self._core_rests_until))
        if self._clock is not None:
            due = min(due, self._clock.next_timer())
        for call in self._stops:
            due = min(due, call.next_timer())
        now = boot_time_s()
        due = min(due, self.endpoints.next_timer(now))
        if self._later:
            due = now
        if abs(due - self._armed_at) < _SOONEST_S and self._armed_at > now:
            return
        due = max(due, now)  # the core says "at once" with minus infinity
        self._armed_at = due
        self._timer.cancel()
        self._timer.timer_period_ns = max(int((due - now) * 1e9), int(_SOONEST_S * 1e9))
        self._timer.reset()

    def _on_timer(self) -> None:
        if self._closed:  # it was due already when the session ended
            return
        self._timer.cancel()
        self._armed_at = float("inf")
        now = boot_time_s()
        core = self._core.next_timer()
        if core is not None and core <= now:
            with self._lock:
                effects = self._core.tick(now, time.time_ns())
                self._perform(effects)
            again = self._core.next_timer()
            if not effects and again is not None and again <= now:
                # Due and nothing to do: it waits for something that time alone does not bring.
                self._core_rests_until = now + _REST_S
        if self._later:
            with self._lock:
                self._perform([self._later.popleft() for _ in range(len(self._later))])
        if self._clock is not None:
            self._clock.tick(now)
        for call in tuple(self._stops):
            message = call.due(now)
            if message is not None:
                self._control.send(message)
        for call in tuple(self._stops):
            if call.over(now):
                self._stops.remove(call)
                self.guarded("operator/stop", call.on_done, call.acknowledged)
        self.endpoints.tick(now)
        if now >= self._housekeeping_due:
            self._housekeeping_due = now + HOUSEKEEPING_S
            self._watch_keystore(now)
            self.endpoints.look_for_latecomers()
            self._checkpoints.look()
            if self._diagnostics is not None:
                self._diagnostics.publish()
        self.rearm()

    def _watch_keystore(self, now: float) -> None:
        """Crypto nodes take over a revocation list or policy that was replaced on disk."""
        if self._watch is None or self.key_server is None:
            return
        try:
            files = self._watch.poll()
        except KeystoreError as error:
            self._alarm("error", str(error))
            return
        if files is not None:
            with self._lock:
                self._perform(self.key_server.update_trust(files, now, time.time_ns()))

    # What endpoints call -------------------------------------------------------------------------------

    def retry_later(self, outlet: RetryingPublisher) -> None:
        """An outlet has messages that a saturated writer did not take."""
        self.endpoints.retry_later(outlet)
        self.rearm()


__all__ = ["SecureSession", "SessionConfig", "SetupError", "host_config"]
