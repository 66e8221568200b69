"""Exceptions of the crypto room. Errors of ours and refusals of what others sent are different types."""

from __future__ import annotations

from .reasons import Reason


class CryptoError(Exception):
    """Base of everything this room raises on purpose."""


class Rejected(CryptoError):
    """Something was refused and nothing changed; `reason` is what the counters show."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class ClockTrouble(Rejected):
    """A message that is not of now: `ahead_s` is its time less that of this process, s. `signer` is whose
    signature was found under it; empty: nobody has looked.
    """

    def __init__(self, ahead_s: float) -> None:
        super().__init__(Reason.AGE, f"{-ahead_s:.3f} s old")
        self.ahead_s = ahead_s
        self.signer = ""


class NotReady(CryptoError):
    """The member has no epoch to send under (yet, or no longer)."""


class EntropyError(CryptoError):
    """The operating system's random numbers fail their health test: no key may be made of them."""


class ForkedProcess(CryptoError):
    """A session was used in another process than it was made in: counters would repeat."""


class KeystoreError(CryptoError):
    """A keystore is missing, unreadable, unsafe or does not fit; the sentence says how to mend it."""


class RankTaken(KeystoreError):
    """A crypto node under this name would have the rank of another one."""


class PolicyError(KeystoreError):
    """A policy file is wrong; the sentence names file, line, field and what is allowed."""


class ProviderError(KeystoreError):
    """The provider of primitives that was asked for cannot be used; the sentence says why."""
