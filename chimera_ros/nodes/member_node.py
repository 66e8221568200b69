"""Base class of nodes that are members of the swarm: a session, status reports, and the order of the end.

The leader lands the swarm and needs all the others for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from chimera_ros import key_passphrase
from chimera_ros.nodes.warm_up import warm_up
from chimera_ros.parent_watch import LANDING_S
from chimera_ros.records.process_status import Details, ProcessStatus, SecurityStatus
from chimera_ros.records.status_fields import StatusFields
from chimera_ros.records.status_line import StatusWriter
from chimera_ros.ros import names
from chimera_ros.ros.lifecycle import EXPOSED, SetupError, SwarmNode, boot_time_s
from chimera_ros.ros.session import SecureSession

P = TypeVar("P")

ORPHANED_WITHIN_S = 5.0  # a service manager signals launch and nodes at once; launch needs a moment to end
STAY_S = LANDING_S + 10.0  # the leader itself ends after `LANDING_S`
LOOK_S = 0.25


class MemberNode(SwarmNode[P]):
    """A node with a `SecureSession`.

    `setup` of a subclass sets `_session`; its `close` and `wipe` end with those of this class.
    """

    def __init__(
        self, name: str, parameters_type: type[P], *, overrides: dict[str, Any] | None = None
    ) -> None:
        super().__init__(name, parameters_type, overrides=overrides)
        self._status = StatusWriter()
        self._session: SecureSession | None = None
        self._stop_requested_s = 0.0
        self._stop_timer: Timer | None = None

    def key_passphrase(self) -> bytes | None:
        """The passphrase of the members' keys, if one was given. Raises SetupError."""
        try:
            return key_passphrase.find(self.parameters.key_passphrase_file)  # type: ignore[attr-defined]
        except key_passphrase.PassphraseError as error:
            raise SetupError(str(error)) from None

    @property
    def session(self) -> SecureSession:
        """The session, between `setup` and `close`."""
        assert self._session is not None
        return self._session

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure, then pay the first-time costs of what the node does in flight."""
        result = super().on_configure(state)
        if result == TransitionCallbackReturn.SUCCESS:
            warm_up(self)
        return result

    def close(self) -> None:
        """Leave the swarm."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def wipe(self) -> None:
        """Erase all keys."""
        if self._session is not None:
            self._session.close()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate, and raise an alarm if anyone may change this node."""
        result = super().on_activate(state)
        if self.exposes_services and self._session is not None:
            self._session.alarm("warning", f"{self.get_name()}: {EXPOSED}")
        return result

    def is_orphaned(self) -> bool:
        """True once launch or the supervisor has ended."""
        return self._status.orphaned or super().is_orphaned()

    def stop_requested(self, count: int) -> bool:
        """Stay while an orphaned leader lands the swarm; a second request ends the node.

        Launch itself ends the leader first, so a node that launch ends finds no leader and does not stay.
        """
        if count > 1 or not (self.launched or self.is_orphaned()):
            return False
        self._stop_requested_s = boot_time_s()
        self._stop_timer = self.create_steady_timer(LOOK_S, self._end_after_leader)
        return True

    def leader_ended(self) -> None:
        """End this node, which was requested, now that no leader needs it."""
        self.stop_spinning()

    def _end_after_leader(self) -> None:
        # The graph is not authenticated: whoever forges a leader delays the end to `STAY_S`.
        leaders = self.count_publishers(names.topic(names.LEADER_HEARTBEAT, self.swarm_namespace))
        limit_s = STAY_S if self.is_orphaned() else ORPHANED_WITHIN_S
        if leaders and boot_time_s() - self._stop_requested_s < limit_s:
            return
        if self._stop_timer is not None:
            self.destroy_timer(self._stop_timer)
            self._stop_timer = None
        self.leader_ended()

    def report(self, details: Details | None, alarms: Sequence[str] = ()) -> None:
        """Send a status to the supervisor, if there is one."""
        security = SecurityStatus.from_json(StatusFields(self.session.status()))
        status = ProcessStatus(self.get_name(), security, tuple(alarms), details)
        self._status.write(status.to_json())
