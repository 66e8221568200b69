"""Exceptions of the crypto room. Errors of ours and refusals of what others sent are different types."""

from __future__ import annotations

from enum import Enum


class RejectReason(Enum):
    """The value is the name used in counters, logs and the swarm's report."""

    # shape
    SIZE = "size"
    MALFORMED = "malformed"
    VERSION = "version"
    SWARM = "swarm"
    SUITE = "suite"
    # envelopes
    FALLBACK = "fallback"  # epoch 0 while a crypto node is heard, or what fallback does not carry
    UNKNOWN_EPOCH = "unknown_epoch"
    LANE = "lane"
    UNKNOWN_SENDER = "unknown_sender"
    NOT_PERMITTED = "not_permitted"  # the policy does not let this member use this channel
    REPLAY = "replay"
    AUTHENTICATION = "authentication"  # AEAD tag, nonce form
    NO_CERTIFICATE = "no_certificate"
    SIGNATURE = "signature"
    AGE = "age"
    UNMATCHED_RESPONSE = "unmatched_response"
    ALREADY_ANSWERED = "already_answered"
    # joining and epochs
    CHALLENGE = "challenge"
    DUPLICATE = "duplicate"
    CERTIFICATE = "certificate"
    REVOKED = "revoked"
    EVICTED = "evicted"
    ROLE = "role"
    BUDGET = "budget"
    TOO_SOON = "too_soon"
    STALE = "stale"  # lower or equal epoch, sequence or counter
    TOO_FAR = "too_far"
    NOT_NAMED = "not_named"  # own unused package is not in the roster
    POLICY = "policy"
    ROSTER = "roster"
    SEED = "seed"
    KEY_TAG = "key_tag"
    EQUIVOCATION = "equivocation"
    ISSUER = "issuer"  # not the crypto node that is followed
    NOT_ADDRESSED = "not_addressed"
    STORE = "store"  # what must be remembered could not be written
    OWN = "own"  # our own message came back


class CryptoError(Exception):
    """Base of everything this room raises on purpose."""


class Rejected(CryptoError):
    """Something was refused and nothing changed; `reason` is what the counters show."""

    def __init__(self, reason: RejectReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class ClockTrouble(Rejected):
    """A message that is not of now: `ahead_s` is its time less that of this process, s. `signer` is whose
    signature was found under it; empty: nobody has looked.
    """

    def __init__(self, ahead_s: float) -> None:
        super().__init__(RejectReason.AGE, f"{-ahead_s:.3f} s old")
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
