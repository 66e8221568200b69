"""Path moderation as a function, where no service is asked: the same ladder, without quantum circuits."""

from __future__ import annotations

from collections.abc import Callable

from chimera_ros.flight.moderation_call import Moderate, ModerationAnswer, ModerationCall, ModerationStatus


def local_moderate(clock: Callable[[], float]) -> Moderate:
    """Moderation in this process; `clock` gives seconds. Heavy modules are imported at its first call."""

    def moderate(call: ModerationCall) -> ModerationAnswer:
        from .conflicts import Separation
        from .errors import ModerationError
        from .ladder import Moderator
        from .request import Request

        try:
            separation = Separation(
                call.separation_m, call.separation_m, call.tracking_error_m, call.clock_skew_s
            )
        except ModerationError as error:
            return ModerationAnswer(call.call_id, ModerationStatus.FAILED, str(error))
        answer = Moderator(clock).run(
            Request(call.drones, call.knots, separation, call.limits, call.fence, call.deadline_s, call.seed)
        )
        return ModerationAnswer(
            call.call_id, answer.status, answer.reason, answer.winner, call.drones, answer.knots,
            len(answer.before),
        )  # fmt: skip

    return moderate
