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
