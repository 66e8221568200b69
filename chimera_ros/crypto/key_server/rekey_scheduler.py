"""Schedule of rekeys: why the next epoch is wanted, and how long it waits for missing key packages.

| reason                | waits, at most                                                          |
| --------------------- | ----------------------------------------------------------------------- |
| evict                 | nothing; if the last switch has only just used packages up, 200 ms      |
| leave, after takeover | `TAKEOVER_WAIT_S` for packages that were not received as standby         |
| leave                 | `batch_s` for others that leave too, `missing_wait_s` for packages      |
| time, volume, manual  | `missing_wait_s` for the packages of the last epoch's members           |
| join                  | `batch_s`; after a restart of the crypto node the recovery's wait for   |
|                       | all members of the epoch that was proven to it                          |

The first that is due takes the others with it: one epoch serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..messages.announcement import EpochReason
from ..trust.policy import Limits

_EVICT_GATHER_S: Final = 0.2
TAKEOVER_WAIT_S: Final = 0.5
RECOVERY_WAIT_S: Final = 3.5  # discovery takes 3 s for some processes; the old epoch works meanwhile
_SETTLE_S: Final = 0.05  # a join batch stays open at least this long


class RekeyScheduler:
    """Times are monotonic seconds."""

    def __init__(self, limits: Limits, rotate_s: float) -> None:
        self.limits = limits
        self.rotate_s = rotate_s
        self._evict: tuple[float, float] | None = None  # since, deadline
        self._takeover_since: float | None = None
        self._join_since: float | None = None
        self._leave_since: float | None = None
        self._decision: tuple[EpochReason, float] | None = None
        self._rotate_at: float | None = None

    def want(self, reason: EpochReason, now: float) -> None:
        """An epoch for this reason; an earlier request of that kind keeps its time."""
        if reason is EpochReason.JOIN:
            self._join_since = now if self._join_since is None else self._join_since
        elif reason is EpochReason.LEAVE:
            self._leave_since = now if self._leave_since is None else self._leave_since
        elif self._decision is None:
            self._decision = (reason, now)

    def want_eviction(self, now: float, packages_expected: bool) -> None:
        """An evicting epoch, at once; `packages_expected`: members are just sending their packages."""
        if self._evict is None:
            self._evict = (now, now + _EVICT_GATHER_S if packages_expected else now)

    def want_takeover(self, now: float) -> None:
        """The first epoch of a crypto node that takes over."""
        self._takeover_since = now

    def retry_eviction(self, at: float) -> None:
        """The evicting epoch could not be made; the next attempt is due then."""
        self._evict = (at, at)

    @property
    def eviction_wanted(self) -> bool:
        """True if an evicting epoch is wanted."""
        return self._evict is not None

    def serve(self) -> None:
        """An epoch is being made: it serves all that was wanted."""
        self._evict = self._decision = self._join_since = self._leave_since = self._takeover_since = None

    def clear(self) -> None:
        """Another crypto node is active: this one makes no epochs."""
        self.serve()
        self._rotate_at = None

    def rotate_after(self, now: float | None) -> None:
        """The next timed rotation is due `rotate_s` after `now`; None: no epoch yet."""
        self._rotate_at = None if now is None else now + self.rotate_s

    def due(
        self, now: float, complete: Callable[[], bool], recovery_s: float
    ) -> tuple[EpochReason, float] | None:
        """(reason, since when it was wanted) of the epoch to announce now.

        complete: an unused package of every expected member is here. recovery_s: how long a crypto node that
        has announced nothing yet waits for the members it expects; otherwise 0.
        """
        if self._evict is not None:
            since, deadline = self._evict
            return (EpochReason.EVICT, since) if now >= deadline or (now >= since and complete()) else None
        if self._takeover_since is not None and (now >= self._takeover_since + TAKEOVER_WAIT_S or complete()):
            return EpochReason.LEAVE, self._takeover_since
        if self._decision is not None:
            reason, since = self._decision
            if now >= since + self.limits.missing_wait_s or complete():
                return reason, since
        if self._leave_since is not None and now >= self._leave_since + self._leave_wait(complete):
            return EpochReason.LEAVE, self._leave_since
        if self._join_since is not None and now >= self._join_since + self._join_wait(complete, recovery_s):
            return EpochReason.JOIN, self._join_since
        return None

    def rotation_due(self, now: float) -> bool:
        """True if a timed rotation is due and nothing else is wanted."""
        return (
            self._decision is None
            and self._join_since is None
            and self._leave_since is None
            and self._takeover_since is None
            and self._rotate_at is not None
            and now >= self._rotate_at
        )

    def next_timer(self, complete: Callable[[], bool], recovery_s: float) -> float | None:
        """When the next epoch may be due."""
        if self._evict is not None:
            return self._evict[1]
        times: list[float] = []
        if self._takeover_since is not None:
            times.append(self._takeover_since + TAKEOVER_WAIT_S)
        if self._decision is not None:
            times.append(self._decision[1] + self.limits.missing_wait_s)
        if self._leave_since is not None:
            times.append(self._leave_since + self._leave_wait(complete))
        if self._join_since is not None:
            times.append(self._join_since + self._join_wait(complete, recovery_s))
        return min(times, default=self._rotate_at)

    def _leave_wait(self, complete: Callable[[], bool]) -> float:
        return self.limits.batch_s if complete() else self.limits.missing_wait_s

    def _join_wait(self, complete: Callable[[], bool], recovery_s: float) -> float:
        if complete():
            return _SETTLE_S
        return max(recovery_s, self.limits.batch_s)
