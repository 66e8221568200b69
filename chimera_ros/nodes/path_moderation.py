"""The path-moderation service: sealed requests in, verified trajectories out, one at a time, in time."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

from chimera_ros import swarm
from chimera_ros.flight.moderation_call import MAX_DEADLINE_S
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.moderation.warm_up import warm_up
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.quantum.sampler import AerSampler
from chimera_ros.quantum.worker import AerWorker, WorkerUnavailable
from chimera_ros.records.histogram import Histogram
from chimera_ros.ros import names
from chimera_ros.ros.convert import ConversionError
from chimera_ros.ros.convert_moderation import (
    moderation_failure_to_msg,
    moderation_request_from_msg,
    moderation_result_to_msg,
)
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import where
from chimera_ros.ros.parameters import parameter
from chimera_ros.ros.services import Deferred
from chimera_ros.ros.session import SecureSession
from chimera_ros.srv import ModerateTrajectories

STATUS_S = 0.5
MOST_WAITING = 4  # requests; a leader has one open, so that more are a mistake or an attack
ENCODE_S = (
    0.03  # of every deadline: conversion, signature and delivery of the response, what the way here ...
)
ENCODE_PER_KNOT_S = 2e-5  # ... took once more, and this for every knot
MOST_UNDER_WAY_S = 1.0  # a request that seems older was sent by a clock that is wrong
SWITCH_S = 0.001  # the thread that computes hands the interpreter over so often


@dataclass(frozen=True)
class ModerationParameters:
    """Parameters of the path-moderation service."""

    keystore: str = parameter("", "folder of the swarm's keystore")
    member: str = parameter(swarm.MODERATOR_MEMBER, "name of this node's identity")
    backend: str = parameter(
        "aer", "what executes quantum circuits; none leaves them out (docs/moderation.md)"
    )
    autostart: bool = parameter(True, "configure and activate without being asked")


@dataclass(frozen=True, slots=True)
class _Asked:
    message: ModerateTrajectories.Request
    deferred: Deferred
    began_s: float  # when the deadline began to run, and ...
    under_way_s: float  # ... how long the request took to come here


class PathModerationNode(MemberNode[ModerationParameters]):
    """Wires `Moderator` (the ladder), `AerWorker` (quantum circuits) and `SecureSession` (the swarm)."""

    def __init__(self, overrides: dict[str, object] | None = None) -> None:
        super().__init__("path_moderation", ModerationParameters, overrides=overrides)
        self._worker: AerWorker | None = None
        self._moderator = Moderator(time.monotonic)
        self._asked: queue.Queue[_Asked | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._counts: Counter[str] = Counter()
        self._ms = Histogram()

    def setup(self) -> None:
        """Load keys, start the quantum worker ahead of the first request."""
        values = self.parameters
        self._session = session = SecureSession(
            self, member=values.member, keystore=values.keystore, autostart=False
        )
        self._service = session.create_service(ModerateTrajectories, names.PATH_MODERATION, self._on_request)
        warm_up(self._moderator)
        if values.backend != "none":
            self._worker = AerWorker()
            try:
                self._worker.start()
            except WorkerUnavailable as error:
                self.get_logger().warning(f"no quantum circuits: {error}")

    def begin(self) -> None:
        """Join the swarm."""
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._work, name="moderation", daemon=True)
        self._thread.start()
        self.session.start()
        self._status_timer = self.create_steady_timer(STATUS_S, self._report_status)

    def pause(self) -> None:
        """Stop reporting and answering."""
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
        while True:  # who still waits gets no answer, and learns it by the time-out
            try:
                self._asked.get_nowait()
            except queue.Empty:
                break
        self._asked.put(None)
        thread.join(timeout=MAX_DEADLINE_S)

    # ---- requests --------------------------------------------------------------------------------

    def _on_request(self, request: ModerateTrajectories.Request, sender: str) -> object:
        age_s = (self.session.swarm_ns() - self._service.sent_ns) * 1e-9
        under_way_s = min(max(age_s, 0.0), MOST_UNDER_WAY_S)
        asked = _Asked(request, Deferred(), time.monotonic() - under_way_s, under_way_s)
        try:
            self._asked.put_nowait(asked)
        except queue.Full:
            self._counts["busy"] += 1
            return moderation_failure_to_msg(f"{MOST_WAITING} requests wait already")
        return asked.deferred

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                response = self._moderate(asked)
            except Exception as error:  # a mistake in here must not end the service; its text may hold data
                self._counts["errors"] += 1
                self.get_logger().error(f"moderation failed: {type(error).__name__} at {where(error)}")
                response = moderation_failure_to_msg(f"moderation failed: {type(error).__name__}")
            asked.deferred.answer(response)
            self._ms.add(1e3 * (time.monotonic() - asked.began_s))

    def _moderate(self, asked: _Asked) -> ModerateTrajectories.Response:
        self._counts["calls"] += 1
        try:
            request = moderation_request_from_msg(asked.message)
        except ConversionError as error:
            self._counts["refused"] += 1
            return moderation_failure_to_msg(str(error))
        knots = sum(map(len, request.knots))
        reserve_s = ENCODE_S + ENCODE_PER_KNOT_S * knots + asked.under_way_s
        sampler = None
        if self._worker is not None and not self._worker.absent:
            sampler = AerSampler(self._worker, self.parameters.backend)
        answer = self._moderator.run(request, asked.began_s, sampler, reserve_s)
        self._counts["conflicts"] += len(answer.before)
        self._counts[answer.status.name.lower()] += 1
        return moderation_result_to_msg(asked.message, answer)

    def _report_status(self) -> None:
        if self._session is None:
            return
        worker = self._worker
        self.report(
            {
                "process": "path_moderation",
                "served": dict(self._counts),
                "served_ms": self._ms.to_status(),
                "quantum": "none"
                if worker is None
                else worker.absent or ("ready" if worker.ready else "starting"),
                "worker_restarts": 0 if worker is None else worker.restarts,
                "security": self.session.status(),
            }
        )


def main(args: list[str] | None = None) -> int:
    """Run the path-moderation service."""
    return run_node(PathModerationNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
