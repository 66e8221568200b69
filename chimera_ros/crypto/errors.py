"""Exceptions of the security protocol: `Rejected` for input from others, other types for local failures."""

from __future__ import annotations

from enum import Enum


class RejectReason(Enum):
    """Reason of a rejection; the value is the name in counters, logs and reports."""

    # encoding
    SIZE = "size"
    MALFORMED = "malformed"
    VERSION = "version"
    SWARM = "swarm"
    SUITE = "suite"
    # envelopes
    FALLBACK = "fallback"  # epoch 0 while a crypto node is active, or a channel that fallback does not carry
    UNKNOWN_EPOCH = "unknown_epoch"
    LANE = "lane"  # unknown lane, or not that of the channel
    UNKNOWN_SENDER = "unknown_sender"
    NOT_PERMITTED = "not_permitted"  # the policy does not permit this member on this channel
    REPLAY = "replay"
    AUTHENTICATION = "authentication"  # AEAD tag, or salt in the nonce
    NO_CERTIFICATE = "no_certificate"  # the sender's has not been received yet
    SIGNATURE = "signature"
    AGE = "age"  # outside of its validity time
    UNMATCHED_RESPONSE = "unmatched_response"  # to no request that is pending here
    ALREADY_ANSWERED = "already_answered"
    # joining and epochs
    CHALLENGE = "challenge"
    DUPLICATE = "duplicate"
    CERTIFICATE = "certificate"
    REVOKED = "revoked"
    EVICTED = "evicted"
    ROLE = "role"
    BUDGET = "budget"  # over a rate limit
    TOO_SOON = "too_soon"
    STALE = "stale"  # lower or equal epoch, sequence or counter
    TOO_FAR = "too_far"
    NOT_NAMED = "not_named"  # the member's unused key package is not in the roster
    POLICY = "policy"
    ROSTER = "roster"
    SEED = "seed"  # the sealed seed cannot be opened
    KEY_TAG = "key_tag"  # the seed does not lead to the announced key tag
    EQUIVOCATION = "equivocation"  # two announcements of one epoch number
    ISSUER = "issuer"  # not the crypto node that this member follows
    NOT_ADDRESSED = "not_addressed"
    STORE = "store"  # the persistent state could not be written
    OWN = "own"  # sent by a member of this process, and received again


class CryptoError(Exception):
    """Base of all exceptions of this package."""


class Rejected(CryptoError):
    """Rejection of input, without a change of state; counted under `reason`."""

    def __init__(self, reason: RejectReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class ClockTrouble(Rejected):
    """Rejection of a message outside its validity time. `ahead_s` is the message's time minus the time it was
    compared with, in seconds; `signer` the member whose signature was verified, empty if none was.
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
    """A session was used in a forked process, where AEAD nonces would repeat."""


class KeystoreError(CryptoError):
    """A keystore is missing, unreadable, insecure or inconsistent; the text says what to do.

    `for_people` is True if the text contains no keys or data of the swarm, so that nodes may log it.
    """

    for_people = True


class IdentityInUse(KeystoreError):
    """A member's identity is in use by another process of this machine; the text names it."""


class KeyEncrypted(KeystoreError):
    """A private key is encrypted, and no passphrase was given."""


class RankTaken(KeystoreError):
    """A crypto node of this name would have the rank of another one."""


class PolicyError(KeystoreError):
    """A policy file is invalid; the text names file, line, field and the allowed values."""


class ProviderError(KeystoreError):
    """The requested library of cryptographic primitives is not usable; the text says why."""
