"""Why something from the network, or a request of our own, was refused: one word each, for counters and
reports.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
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
