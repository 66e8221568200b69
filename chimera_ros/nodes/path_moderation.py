"""Path-moderation node: a secure service that returns verified trajectories before the request's deadline."""

from __future__ import annotations

import queue
import sys
import threading
import time
from dataclasses import dataclass

from chimera_ros.flight.moderation_call import MAX_DEADLINE_S
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.moderation.warm_up import warm_up
from chimera_ros.node_parameters import ModerationParameters
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.quantum.sampler import AerSampler
from chimera_ros.quantum.worker import AerWorker, WorkerUnavailable
from chimera_ros.ros import names
from chimera_ros.ros.convert import ConversionError
from chimera_ros.ros.convert_moderation import (
    moderation_failure_to_msg,
    moderation_request_from_msg,
    moderation_result_to_msg,
)
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import raised_at
from chimera_ros.ros.log import log
from chimera_ros.ros.services import Deferred
from chimera_ros.ros.session import SecureSession
from chimera_ros.srv import ModerateTrajectories

STATUS_S = 0.5
MAX_QUEUED = 4  # requests; a leader has one open, so more are an error or an attack
# Reserved of every deadline to convert and sign the response; its delivery takes the transit time once more:
ENCODE_S = 0.03
ENCODE_PER_KNOT_S = 2e-5
MAX_TRANSIT_S = 1.0  # an older request was stamped by a wrong clock
SWITCH_S = 0.001  # switch interval of the interpreter: the solver thread must not delay the executor


@dataclass(frozen=True, slots=True)
class _QueuedRequest:
    message: ModerateTrajectories.Request
    deferred: Deferred
    began_s: float  # start of the deadline
    transit_s: float  # from the leader to here


class PathModerationNode(MemberNode[ModerationParameters]):
    """Solves trajectory conflicts with `Moderator` in a thread, one request at a time.

    Quantum circuits run in the worker process of `AerWorker`. At most `MAX_QUEUED` requests wait.
    """

    def __init__(self, overrides: dict[str, object] | None = None) -> None:
        super().__init__("path_moderation", ModerationParameters, overrides=overrides)
        self._worker: AerWorker | None = None
        self._moderator = Moderator(time.monotonic)
        self._queue: queue.Queue[_QueuedRequest | None] = queue.Queue(MAX_QUEUED)
        self._thread: threading.Thread | None = None

    def setup(self) -> None:
        """Load keys, start the quantum worker before the first request."""
        values = self.parameters
        self._session = session = SecureSession(
            self,
            member=values.member,
            keystore=values.keystore,
            passphrase=self.key_passphrase(),
            autostart=False,
        )
        self._service = session.create_service(ModerateTrajectories, names.PATH_MODERATION, self._on_request)
        warm_up(self._moderator)
        if values.backend != "none":
            self._worker = AerWorker()
            try:
                self._worker.start()
            except WorkerUnavailable as error:
                log(self, "warning", f"no quantum circuits: {error}")

    def begin(self) -> None:
        """Join the swarm."""
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._work, name="moderation", daemon=True)
        self._thread.start()
        self.session.start()
        self._status_timer = self.create_steady_timer(STATUS_S, self._report_status)

    def pause(self) -> None:
        """Stop reporting and solving."""
        self.destroy_timer(self._status_timer)
        self._end_thread()

    def close(self) -> None:
        """Leave the swarm, end the worker."""
        self._end_thread()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        super().close()

    def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        while True:  # requests that still wait time out
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)
        thread.join(timeout=MAX_DEADLINE_S)

    # ---- requests --------------------------------------------------------------------------------

    def _on_request(self, request: ModerateTrajectories.Request, sender: str) -> object:
        age_s = (self.session.swarm_ns() - self._service.sent_ns) * 1e-9
        transit_s = min(max(age_s, 0.0), MAX_TRANSIT_S)
        queued = _QueuedRequest(request, Deferred(), time.monotonic() - transit_s, transit_s)
        try:
            self._queue.put_nowait(queued)
        except queue.Full:
            return moderation_failure_to_msg(f"{MAX_QUEUED} requests wait already")
        return queued.deferred

    def _work(self) -> None:
        while (queued := self._queue.get()) is not None:
            try:
                response = self._moderate(queued)
            except Exception as error:  # a bug must not end the service; the text may contain data
                log(self, "error", f"moderation failed: {type(error).__name__} at {raised_at(error)}")
                response = moderation_failure_to_msg(f"moderation failed: {type(error).__name__}")
            queued.deferred.answer(response)

    def _moderate(self, queued: _QueuedRequest) -> ModerateTrajectories.Response:
        try:
            request = moderation_request_from_msg(queued.message)
        except ConversionError as error:
            return moderation_failure_to_msg(str(error))
        knots = sum(map(len, request.knots))
        reserve_s = ENCODE_S + ENCODE_PER_KNOT_S * knots + queued.transit_s
        sampler = None
        if self._worker is not None and not self._worker.absent:
            sampler = AerSampler(self._worker, self.parameters.backend)
        answer = self._moderator.run(request, queued.began_s, sampler, reserve_s)
        return moderation_result_to_msg(queued.message, answer)

    def _report_status(self) -> None:
        if self._session is None:
            return
        self.report(None)


def main(args: list[str] | None = None) -> int:
    """Run the path-moderation service."""
    return run_node(PathModerationNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
