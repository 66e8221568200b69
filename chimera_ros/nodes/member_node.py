"""Base class of nodes that are members of the swarm: a session, and status reports to the supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from chimera_ros.nodes.warm_up import warm_up
from chimera_ros.records.process_status import Details, ProcessStatus, SecurityStatus
from chimera_ros.records.status_fields import StatusFields
from chimera_ros.records.status_line import StatusWriter
from chimera_ros.ros.lifecycle import SwarmNode
from chimera_ros.ros.session import SecureSession

P = TypeVar("P")


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

    def report(self, details: Details | None, alarms: Sequence[str] = ()) -> None:
        """Send a status to the supervisor, if there is one; end the process when it has ended."""
        security = SecurityStatus.from_json(StatusFields(self.session.status()))
        status = ProcessStatus(self.get_name(), security, tuple(alarms), details)
        self._status.write(status.to_json())
        if self._status.orphaned:
            self.stop_spinning()
