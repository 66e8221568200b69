"""The leader and path moderation: it asks before every move, believes nothing, and waits only so long."""

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
from .state import LeaderConfig, Situation

_TIMES_KEPT: Final = 1000
_TEXT: Final = 160


@dataclass(slots=True)
class _Open:
    call: ModerationRequest
    asked_s: float
    answer: ModerationAnswer | None = None
    failure: str = ""


class ModerationClient:
    """Calls, what became of them, and how long they took. Nothing that comes back is flown unchecked."""

    def __init__(self, config: LeaderConfig, mission: Mission, post: Outbox, situation: Situation) -> None:
        self._config, self._mission, self._post, self._situation = config, mission, post, situation
        self._open: _Open | None = None
        self._call_id = 0
        self.calls = 0
        self.conflicts = 0
        self.winners: Counter[str] = Counter()  # of answers that were used
        self.unused: Counter[str] = (
            Counter()
        )  # why the others were not: absent, late, infeasible, failed, wrong
        self.ms: deque[float] = deque(maxlen=_TIMES_KEPT)  # from asking to hearing, newest last

    def heard(self, answer: ModerationAnswer, now: float) -> None:
        """An answer; only that to the open call counts."""
        if self._open is not None and answer.call_id == self._open.call.call_id:
            self.ms.append(1e3 * max(now - self._open.asked_s, 0.0))
            self._open.answer = answer

    def failed(self, call_id: int, why: str) -> None:
        """There will be no answer to a call."""
        if self._open is not None and call_id == self._open.call.call_id:
            self._open.failure = why or "no answer"

    def improve(
        self,
        title: str,
        names: Sequence[str],
        wish: Sequence[KnotSequence],
        goals: Array,
        longest_s: float,
        tracking_error_m: float = TRACKING_MARGIN_M / 2.0,
    ) -> Generator[None, None, tuple[KnotSequence, ...] | None]:
        """Asks for conflict-free paths instead of `wish`; None where no answer came that can be flown.

        Args:
            title: of the move, for sentences.
            names: the drones.
            wish: a path for each, from where and as it moves now.
            goals: (N, 3) where each must end.
            longest_s: no path may take longer.
            tracking_error_m: of each drone.
        """
        if not self._config.moderate:
            return None
        now, mission = self._situation, self._mission
        self._call_id += 1
        deadline_s = deadline_for(len(names))
        separation = Separation(mission.separation_m, mission.separation_m, tracking_error_m)
        call = ModerationRequest(
            tuple(names), tuple(wish), separation, mission.limits, mission.fence, deadline_s,
            seed=self._call_id, call_id=self._call_id, start_ns=now.ns,
        )  # fmt: skip
        self._open = open_ = _Open(call, now.now)
        self.calls += 1
        self._post.ask(call)
        until = now.now + deadline_s + self._config.moderation_grace_s
        while open_.answer is None and not open_.failure:
            if now.now > until:
                open_.failure = f"no answer within {deadline_s:g} s"
                self.unused["late"] += 1
                self._alone(title, open_.failure)
                return None
            yield
        self._open = None
        if open_.answer is None:
            self.unused["absent"] += 1
            self._alone(title, open_.failure)
            return None
        answer = open_.answer
        self.conflicts += max(0, min(answer.conflicts, len(names) ** 2))
        if answer.status is not ModerationStatus.CONFLICT_FREE:
            self.unused[answer.status.name.lower()] += 1
            self._alone(title, answer.reason)
            return None
        by_name: Mapping[str, KnotSequence] = dict(zip(answer.drones, answer.knots, strict=False))
        if len(answer.drones) != len(names) or set(by_name) != set(names):
            why = "its answer is about other drones"
        else:
            why = answer_fault(mission, call, goals, [by_name[name] for name in names], longest_s)
        if why:
            self.unused["wrong"] += 1
            self._alone(title, why)
            return None
        self.winners[answer.winner[:48] or "unnamed"] += 1
        return tuple(by_name[name] for name in names)

    def _alone(self, title: str, why: str) -> None:
        self._open = None
        text = why.rstrip(".")[:_TEXT]
        self._post.event("moderation", f"path moderation is not used for {title}: {text}.")

    def status(self) -> dict[str, object]:
        """For tables and reports."""
        return {
            "calls": self.calls,
            "conflicts": self.conflicts,
            "winner": dict(self.winners),
            "unused": dict(self.unused),
        }
