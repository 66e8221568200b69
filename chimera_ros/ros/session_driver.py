"""Timer and effects of a session: calls the protocol core when due and performs the effects it returns.

One one-shot timer is set to whatever is due first: the core, the clock, a stop to repeat, a saturated writer,
or the housekeeping of every second. The core is called under one lock; callbacks run in the node's executor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from threading import RLock
from typing import Final

from rclpy.clock import Clock
from rclpy.clock_type import ClockType

from chimera_ros.crypto.effects import Effect, SecurityAlarm, Send, StopAcked, StopOrder, Switched
from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.key_server.evictions import EvictionVerdict
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.watch import KeystoreWatch
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.member.security_state import SecurityState
from chimera_ros.crypto.wire import ControlKind, ControlMessage

from .checkpoint_topics import CheckpointTopics
from .clock_sync import ClockClient, ClockServer
from .context import SessionContext
from .control_topics import ControlTopics
from .diagnostics import Diagnostics
from .endpoint_registry import EndpointRegistry
from .lifecycle import boot_time_s
from .log import log
from .stop_call import StopCall

HOUSEKEEPING_S: Final = 1.0
_MIN_TIMER_S: Final = 0.0002
_IDLE_S: Final = 0.02
_KEPT_ALARMS: Final = 32
_KEPT_EFFECTS: Final = 256


class SessionDriver:
    """Runs one session from `start` to `close`.

    Args:
        kinds: control messages to subscribe to.
        watch: of the keystore on disk, for a newer revocation list or policy; crypto nodes only.
        snapshot: the security state, for diagnostics.
        synchronise_clock: measure the offset to the crypto node.
    """

    def __init__(
        self,
        context: SessionContext,
        endpoints: EndpointRegistry,
        kinds: Iterable[ControlKind],
        watch: KeystoreWatch | None,
        snapshot: Callable[[], SecurityState],
        synchronise_clock: bool,
    ) -> None:
        self.alarms: deque[tuple[str, str]] = deque(maxlen=_KEPT_ALARMS)
        self.clock: ClockClient | None = None
        self.checkpoints = CheckpointTopics(context)
        self._context = context
        self._key_server = context.key_server
        self._core: SecureHost | KeyServer = context.key_server or context.host
        self._endpoints = endpoints
        self._control = ControlTopics(context, kinds, self._on_control)
        self._watch = watch
        self._snapshot = snapshot
        self._synchronise_clock = synchronise_clock
        self._diagnostics: Diagnostics | None = None
        self._clock_server: ClockServer | None = None
        self._lock = RLock()
        self._started = False
        self._closed = False
        self._stops: list[StopCall] = []
        self._ready_members: set[str] = set()
        self._on_ready: list[Callable[[], None]] = []
        self._on_switched: list[Callable[[str, int], None]] = []
        self._on_alarm: list[Callable[[str, str], None]] = []
        self._on_stop: list[Callable[[StopOrder], None]] = []
        self._pending_effects: deque[Effect] = deque(maxlen=_KEPT_EFFECTS)
        self._housekeeping_due = 0.0
        self._armed_at = float("inf")
        self._core_idle_until = 0.0
        self._timer = context.node.create_timer(
            HOUSEKEEPING_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()

    def start(self) -> None:
        """Open the control topics, start the core and the clock. Does nothing when started or closed."""
        if self._started or self._closed:
            return
        self._started = True
        context = self._context
        self._control.open()
        self.checkpoints.open()
        self._diagnostics = Diagnostics(context.node, context.host.swarm, self._snapshot)
        with self._lock:
            self._perform(self._core.start(boot_time_s(), time.time_ns()))
        if self._key_server is not None:
            self._clock_server = ClockServer(context, self._endpoints, context.members[0])
        if self._synchronise_clock:
            self.clock = ClockClient(context, self._endpoints, context.members)
        self.rearm()

    def close(self) -> None:
        """Announce the leave, destroy every topic, erase all keys."""
        if self._closed:
            return
        self._closed = True
        if self._started and self._key_server is None:
            with self._lock:
                self._perform(self._context.host.leave())
        self._context.node.destroy_timer(self._timer)
        self.checkpoints.close()
        self._control.close()
        if self._diagnostics is not None:
            self._diagnostics.destroy()
        self.clock = None
        self._endpoints.close()
        self._context.host.close()

    # Callbacks of the session's user

    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when every hosted member has switched to an epoch."""
        self._on_ready.append(callback)

    def on_switched(self, callback: Callable[[str, int], None]) -> None:
        """Call `callback(member, epoch)` at every switch."""
        self._on_switched.append(callback)

    def on_alarm(self, callback: Callable[[str, str], None]) -> None:
        """Call `callback(severity, text)` for every alarm."""
        self._on_alarm.append(callback)

    def on_stop(self, callback: Callable[[StopOrder], None]) -> None:
        """Call `callback(order)` for every verified stop."""
        self._on_stop.append(callback)

    # Input of the core

    def rotate(self, reason: str) -> None:
        """Announce a new epoch now. Raises PermissionError without a key server."""
        if self._key_server is None:
            raise PermissionError("only the crypto node can rotate; others ask it through crypto/rotate")
        with self._lock:
            self._perform(self._key_server.rotate(reason, boot_time_s(), time.time_ns()))
        self.rearm()

    def evict(self, name: str, operator: str, evidence: bytes) -> EvictionVerdict:
        """Evict a member on the verified order of `operator`. Raises PermissionError without a key server."""
        if self._key_server is None:
            raise PermissionError("only the crypto node can evict; operators ask it through crypto/evict")
        with self._lock:
            verdict = self._key_server.evict(name, operator, evidence, boot_time_s(), time.time_ns())
            self._perform(verdict.effects)
            if verdict.acted:  # switch at once, so that the response is sent under the new epoch
                self._perform(self._core.tick(boot_time_s(), time.time_ns()))
        self.rearm()
        return verdict

    def stop(self, call: StopCall) -> None:
        """Send a stop and repeat it until it is finished."""
        self._stops.append(call)
        self.rearm()

    def _on_control(self, message: ControlMessage) -> None:
        with self._lock:
            self._perform(self._core.handle(message, boot_time_s(), time.time_ns()))
            self._core_idle_until = 0.0
        self.rearm()

    # Effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._control.send(message)
                case Switched(member, epoch, _):
                    self._switched(member, epoch)
                case SecurityAlarm(severity, text):
                    self.alarm(severity, text)
                case StopOrder():
                    for callback in tuple(self._on_stop):
                        self._context.guarded("operator/stop", callback, effect)
                case StopAcked(drone, _, counter):
                    for call in self._stops:
                        call.acknowledged_by(drone, counter)

    def perform_later(self, effects: list[Effect]) -> None:
        """Perform effects in the node's executor. May be called from any thread."""
        if effects and not self._closed:
            self._pending_effects.extend(effects)
            self.rearm()

    def _switched(self, member: str, epoch: int) -> None:
        self._endpoints.reseal(member)
        for callback in tuple(self._on_switched):
            self._context.guarded("crypto/switch", callback, member, epoch)
        self._ready_members.add(member)
        if self._on_ready and self._ready_members.issuperset(self._context.members):
            waiting, self._on_ready = self._on_ready, []
            for ready in waiting:
                self._context.guarded("crypto/switch", ready)

    def alarm(self, severity: str, text: str) -> None:
        """Log an alarm, keep it for the status and call the user's callbacks; from the executor's thread."""
        self.alarms.append((severity, text))
        log(self._context.node, severity, text)
        for callback in tuple(self._on_alarm):
            self._context.guarded("alarm", callback, severity, text)

    # The one timer

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
            due = min(due, max(core, self._core_idle_until))
        if self.clock is not None:
            due = min(due, self.clock.next_timer())
        for call in self._stops:
            due = min(due, call.next_timer())
        now = boot_time_s()
        due = min(due, self._endpoints.next_timer(now))
        if self._pending_effects:
            due = now
        if abs(due - self._armed_at) < _MIN_TIMER_S and self._armed_at > now:
            return
        due = max(due, now)  # minus infinity means at once
        self._armed_at = due
        self._timer.cancel()
        self._timer.timer_period_ns = max(int((due - now) * 1e9), int(_MIN_TIMER_S * 1e9))
        self._timer.reset()

    def _on_timer(self) -> None:
        if self._closed:  # it was due already when the session was closed
            return
        self._timer.cancel()
        self._armed_at = float("inf")
        now = boot_time_s()
        self._tick_core(now)
        if self._pending_effects:
            with self._lock:
                self._perform([self._pending_effects.popleft() for _ in range(len(self._pending_effects))])
        if self.clock is not None:
            self.clock.tick(now)
        self._tick_stops(now)
        self._endpoints.tick(now)
        if now >= self._housekeeping_due:
            self._housekeeping_due = now + HOUSEKEEPING_S
            self._watch_keystore(now)
            self._endpoints.serve_late_joiners()
            self.checkpoints.update_subscriptions()
            if self._diagnostics is not None:
                self._diagnostics.publish()
        self.rearm()

    def _tick_core(self, now: float) -> None:
        core = self._core.next_timer()
        if core is None or core > now:
            return
        with self._lock:
            effects = self._core.tick(now, time.time_ns())
            self._perform(effects)
        again = self._core.next_timer()
        if not effects and again is not None and again <= now:
            # Due without an effect: it waits for an event, not for time.
            self._core_idle_until = now + _IDLE_S

    def _tick_stops(self, now: float) -> None:
        for call in tuple(self._stops):
            message = call.due(now)
            if message is not None:
                self._control.send(message)
        for call in tuple(self._stops):
            if call.finished(now):
                self._stops.remove(call)
                self._context.guarded("operator/stop", call.on_done, call.acknowledged)

    def _watch_keystore(self, now: float) -> None:
        """Read a revocation list or policy that was replaced on disk; crypto nodes only."""
        if self._watch is None or self._key_server is None:
            return
        try:
            files = self._watch.poll()
        except KeystoreError as error:
            self.alarm("error", str(error))
            return
        if files is not None:
            with self._lock:
                self._perform(self._key_server.update_trust(files, now, time.time_ns()))
