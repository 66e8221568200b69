"""Client of path moderation in the leader: one call at a time, with a deadline.

Every answer is checked against the request before it is used. Without a usable answer in time the leader
continues with its own plan.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..moderation_call import (
    KnotSequence,
    ModerationAnswer,
    ModerationRequest,
    ModerationStatus,
    Separation,
    deadline_for,
)
from ..planning.mission import Mission
from ..planning.plan_check import answer_fault
from ..planning.planner import TRACKING_MARGIN_M
from ..trajectory import Array
from .outbox import Outbox
from .state import LeaderConfig, LeaderState

_TIMES_KEPT: Final = 1000
_MAX_TEXT: Final = 160


@dataclass(slots=True)
class _PendingCall:
    call: ModerationRequest
    sent_s: float
    answer: ModerationAnswer | None = None
    failure: str = ""


class ModerationClient:
    """Calls path moderation, and counts calls, outcomes and round-trip times."""

    def __init__(self, config: LeaderConfig, mission: Mission, outbox: Outbox, state: LeaderState) -> None:
        self._config, self._mission, self._outbox, self._state = config, mission, outbox, state
        self._pending: _PendingCall | None = None
        self._call_id = 0
        self.calls = 0
        self.conflicts = 0
        self.winners: Counter[str] = Counter()  # of answers that were used
        self.unused: Counter[str] = Counter()  # of the others: absent, late, infeasible, failed, wrong
        self.ms: deque[float] = deque(maxlen=_TIMES_KEPT)  # round-trip times, newest last

    def on_answer(self, answer: ModerationAnswer, now: float) -> None:
        """Stores the answer to the pending call; others are ignored."""
        if self._pending is not None and answer.call_id == self._pending.call.call_id:
            self.ms.append(1e3 * max(now - self._pending.sent_s, 0.0))
            self._pending.answer = answer

    def on_failure(self, call_id: int, why: str) -> None:
        """The pending call has failed."""
        if self._pending is not None and call_id == self._pending.call.call_id:
            self._pending.failure = why or "no answer"

    def request(
        self,
        title: str,
        names: Sequence[str],
        wish: Sequence[KnotSequence],
        goals: Array,
        longest_s: float,
        tracking_error_m: float = TRACKING_MARGIN_M / 2.0,
    ) -> Generator[None, None, tuple[KnotSequence, ...] | None]:
        """Requests conflict-free paths instead of `wish`; None without a usable answer.

        Args:
            title: title of the move, for events.
            names: the N drones.
            wish: preferred path of each, from its present position and velocity.
            goals: (N, 3) goal of each, ENU metres.
            longest_s: limit for the duration of every path.
            tracking_error_m: largest deviation of each drone from its path.
        """
        if not self._config.moderate:
            return None
        state, mission = self._state, self._mission
        self._call_id += 1
        deadline_s = deadline_for(len(names))
        separation = Separation(mission.separation_m, mission.separation_m, tracking_error_m)
        call = ModerationRequest(
            tuple(names), tuple(wish), separation, mission.limits, mission.fence, deadline_s,
            seed=self._call_id, call_id=self._call_id, start_ns=state.swarm_ns,
        )  # fmt: skip
        self._pending = pending = _PendingCall(call, state.now)
        self.calls += 1
        self._outbox.request_moderation(call)
        until = state.now + deadline_s + self._config.moderation_grace_s
        while pending.answer is None and not pending.failure:
            if state.now > until:
                pending.failure = f"no answer within {deadline_s:g} s"
                self.unused["late"] += 1
                self._report_unused(title, pending.failure)
                return None
            yield
        self._pending = None
        if pending.answer is None:
            self.unused["absent"] += 1
            self._report_unused(title, pending.failure)
            return None
        answer = pending.answer
        self.conflicts += max(0, min(answer.conflicts, len(names) ** 2))
        if answer.status is not ModerationStatus.CONFLICT_FREE:
            self.unused[answer.status.name.lower()] += 1
            self._report_unused(title, answer.reason)
            return None
        by_name: Mapping[str, KnotSequence] = dict(zip(answer.drones, answer.knots, strict=False))
        if len(answer.drones) != len(names) or set(by_name) != set(names):
            why = "the answer names other drones"
        else:
            why = answer_fault(mission, call, goals, [by_name[name] for name in names], longest_s)
        if why:
            self.unused["wrong"] += 1
            self._report_unused(title, why)
            return None
        self.winners[answer.winner[:48] or "unnamed"] += 1
        return tuple(by_name[name] for name in names)

    def _report_unused(self, title: str, why: str) -> None:
        self._pending = None
        text = why.rstrip(".")[:_MAX_TEXT]
        self._outbox.event("moderation", f"path moderation is not used for {title}: {text}.")

    def status(self) -> dict[str, object]:
        """Counters for status and report."""
        return {
            "calls": self.calls,
            "conflicts": self.conflicts,
            "winner": dict(self.winners),
            "unused": dict(self.unused),
        }
