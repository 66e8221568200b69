"""Exceptions of the security protocol; own errors and rejected input are different types."""

from __future__ import annotations

from enum import Enum


class RejectReason(Enum):
    """Reason of a rejection; the value is the name in counters, logs and reports."""

    # shape
    SIZE = "size"
    MALFORMED = "malformed"
    VERSION = "version"
    SWARM = "swarm"
    SUITE = "suite"
    # envelopes
    FALLBACK = "fallback"  # epoch 0 while a crypto node is active, or a channel that fallback does not carry
    UNKNOWN_EPOCH = "unknown_epoch"
    LANE = "lane"
    UNKNOWN_SENDER = "unknown_sender"
    NOT_PERMITTED = "not_permitted"  # the policy does not permit this member on this channel
    REPLAY = "replay"
    AUTHENTICATION = "authentication"  # AEAD tag, or salt in the nonce
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
    NOT_NAMED = "not_named"  # the own unused package is not in the roster
    POLICY = "policy"
    ROSTER = "roster"
    SEED = "seed"
    KEY_TAG = "key_tag"
    EQUIVOCATION = "equivocation"
    ISSUER = "issuer"  # not the crypto node that this member follows
    NOT_ADDRESSED = "not_addressed"
    STORE = "store"  # the persistent state could not be written
    OWN = "own"  # the own message, looped back


class CryptoError(Exception):
    """Base of all exceptions of this package."""


class Rejected(CryptoError):
    """Input was rejected and no state changed; counted under `reason`."""

    def __init__(self, reason: RejectReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class ClockTrouble(Rejected):
    """A message outside its validity time: `ahead_s` is its time minus that of this process, s. `signer` is
    the member whose signature was verified; empty: not verified.
    """

    def __init__(self, ahead_s: float) -> None:
        super().__init__(RejectReason.AGE, f"{-ahead_s:.3f} s old")
        self.ahead_s = ahead_s
        self.signer = ""


class NotReady(CryptoError):
    """The member has no epoch to send under."""


class EntropyError(CryptoError):
    """The operating system's random numbers fail their health test: no key is generated."""


class ForkedProcess(CryptoError):
    """A session was used in another process than the one that made it: counters would repeat."""


class KeystoreError(CryptoError):
    """A keystore is missing, unreadable, insecure or inconsistent; the sentence names the remedy.

    `for_people`: the text holds no data of the swarm, so that nodes may log it.
    """

    for_people = True


class IdentityInUse(KeystoreError):
    """A member's identity is in use by another process of this machine; the sentence names it."""


class KeyEncrypted(KeystoreError):
    """A private key is encrypted, and no passphrase was given."""


class RankTaken(KeystoreError):
    """A crypto node of this name would have the rank of another one."""


class PolicyError(KeystoreError):
    """A policy file is invalid; the sentence names file, line, field and the allowed values."""


class ProviderError(KeystoreError):
    """The requested provider of primitives is not usable; the sentence says why."""
