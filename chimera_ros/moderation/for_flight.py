"""Path moderation as a function of this process: without a service, without quantum circuits.

An offline request is answered by counted work and not by the clock (`ModerationRequest.offline`).
"""

from __future__ import annotations

from collections.abc import Callable

from chimera_ros.flight.moderation_call import Moderate, ModerationAnswer, ModerationRequest


def local_moderate(clock: Callable[[], float]) -> Moderate:
    """Moderation in this process; `clock` gives seconds. Heavy modules are imported at its first call."""

    def moderate(request: ModerationRequest) -> ModerationAnswer:
        from .ladder import Moderator

        answer = Moderator(clock).run(request)
        return ModerationAnswer(
            request.call_id, answer.status, answer.reason, answer.winner, request.drones, answer.knots,
            len(answer.before), answer.undecided,
        )  # fmt: skip

    return moderate
