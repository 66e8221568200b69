"""Watchdog on the crypto node's beats: after `silence_s` without one the process is silent.

A silent process sends only what fallback carries, and without a valid fallback secret nothing, until a beat
of an epoch that it holds arrives.
"""

from __future__ import annotations

from ..effects import Effect, SecurityAlarm
from .certificate_exchange import CertificateExchange
from .context import MemberContext
from .fallback import Fallback


class BeatWatchdog:
    """Owns `last_beat` and `silent` of the context."""

    def __init__(
        self, context: MemberContext, exchange: CertificateExchange, fallback: Fallback | None
    ) -> None:
        self._context = context
        self._exchange = exchange
        self._fallback = fallback

    def reset(self, now: float) -> bool:
        """A crypto node is alive: a beat of our epoch, our first epoch, or an own beat. True if this ends a
        silence.
        """
        self._context.last_beat = now
        silent, self._context.silent = self._context.silent, False
        if silent and self._fallback is not None:
            self._fallback.reset()
        return silent

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        """The alarm when silence begins, then the hellos of fallback."""
        context = self._context
        effects: list[Effect] = []
        silent_at = None if context.last_beat is None else context.last_beat + context.limits.silence_s
        if silent_at is not None and not context.silent and now >= silent_at:
            if any(member.sending is not None for member in context.members.values()):
                effects.append(
                    SecurityAlarm(
                        "error",
                        f"no crypto node heard for {context.limits.silence_s:g} s: "
                        f"{self._consequence(wall_ns)}",
                    )
                )
            context.silent = True
            for member in context.members.values():  # fallback accepts no message without a certificate
                self._exchange.send_soon(member, now, context.random(1)[0] / 256)
        if context.silent and self._fallback is not None:
            effects += self._fallback.tick(now, wall_ns)
        return effects

    def _consequence(self, wall_ns: int) -> str:
        if self._fallback is None or not self._fallback.usable(wall_ns):
            return "this process stops sending"
        return "DEGRADED, only telemetry, hold, land and return go on, under the pre-shared secret"

    def next_timer(self) -> float | None:
        """Monotonic seconds; None before the start, and while silent without a fallback secret."""
        if self._context.silent:
            return self._fallback.next_timer() if self._fallback is not None else None
        last_beat = self._context.last_beat
        return None if last_beat is None else last_beat + self._context.limits.silence_s
