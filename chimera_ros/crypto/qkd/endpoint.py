"""Common part of both endpoints of a BB84 session: parameters, transcript, error rate, final key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..encoding import fields
from ..entropy.conditioning import Bits, unpack
from ..primitives import labels
from ..trust.identity import CertifiedMember, MemberIdentity
from .amplify import toeplitz
from .finite_key import ABORT_RATE, Security, secret_bits
from .messages import SESSION_BYTES, Abort, AbortReason
from .quantum_channel import MAX_PHOTONS

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class QkdConfig:
    """photons: sent in one session; about a quarter becomes the raw key, a quarter the sample."""

    photons: int = 16384
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        if not 1024 <= self.photons <= MAX_PHOTONS:
            raise ValueError(f"{self.photons} photons; allowed are 1024 to {MAX_PHOTONS}")

    @property
    def min_bits(self) -> int:
        """Fewer bits than this in raw key or sample abort the session."""
        return self.photons // 8

    def encode(self) -> bytes:
        """The parameters that both endpoints must share, for the transcript."""
        return repr((self.photons, ABORT_RATE, self.security)).encode("ascii")


@dataclass(frozen=True, slots=True)
class QkdOutcome:
    """secret: the key's whole bytes, or None with a `reason`. key_id: 16 bytes, equal at both endpoints.
    report: JSON-ready.
    """

    secret: bytes | None = field(repr=False)
    key_id: bytes = b""
    reason: AbortReason | None = None
    report: dict[str, Any] = field(default_factory=dict)


def random_bits(random: Random, count: int) -> Bits:
    """`count` random bits."""
    return unpack(random((count + 7) // 8))[:count]


class SessionAborted(Exception):
    """The session ended without a key."""

    def __init__(self, reason: AbortReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Endpoint:
    """Base of Alice and Bob."""

    def __init__(
        self, config: QkdConfig, identity: MemberIdentity, peer: CertifiedMember, random: Random, alice: bool
    ) -> None:
        self.config = config
        self.outcome: QkdOutcome | None = None
        self._identity = identity
        self._peer = peer
        self._random = random
        self._session = bytes(SESSION_BYTES)
        pair = (identity.fingerprint, peer.fingerprint) if alice else (peer.fingerprint, identity.fingerprint)
        self._transcript = hashlib.sha3_512(
            fields(labels.QKD_TRANSCRIPT, identity.swarm.encode("ascii"), *pair, config.encode())
        )
        self._round = 0
        self._report: dict[str, Any] = {"photons": config.photons}

    @property
    def finished(self) -> bool:
        """True if the session has ended, with a key or without."""
        return self.outcome is not None

    def record(self, *messages: bytes) -> None:
        """Adds classical messages to the transcript, in order."""
        self._transcript.update(fields(*messages))

    def sign(self, role: bytes) -> bytes:
        """The own signature over the transcript so far."""
        return self._identity.sign(fields(role, self._transcript.digest()), labels.SIGN_QKD)

    def verify(self, role: bytes, signature: bytes) -> bool:
        """True if the peer has signed the same transcript."""
        return self._peer.verify(signature, fields(role, self._transcript.digest()), labels.SIGN_QKD)

    def check_session(self, session: bytes) -> None:
        """Raises ValueError for a message of another session."""
        if session != self._session:
            raise ValueError("another session")

    def measure_errors(self, own: Bits, peer: Bits, n: int) -> float:
        """Error rate of the sample; n: bits of the raw key. Raises SessionAborted."""
        if len(own) != len(peer):
            raise ValueError("samples of different length")
        k, errors = len(own), int(np.count_nonzero(own != peer))
        self._report.update(key_bits=n, sample_bits=k, sample_errors=errors)
        if min(n, k) < self.config.min_bits:
            raise SessionAborted(AbortReason.TOO_FEW)
        self._report["error_rate"] = errors / k
        if errors > ABORT_RATE * k:
            raise SessionAborted(AbortReason.ERRORS)
        return errors / k

    def key_length(self, parities: int) -> int:
        """Length of the key, bits, whole bytes. Raises SessionAborted when it is zero."""
        report = self._report
        leak = 2 * parities
        bits = secret_bits(
            report["key_bits"], report["sample_bits"], report["sample_errors"], leak, self.config.security
        )
        report.update(parities=parities, leak_bits=leak, secret_bits=bits // 8 * 8)
        if bits < 8:
            raise SessionAborted(AbortReason.NO_BITS)
        return bits // 8 * 8

    def succeed(self, raw: Bits, seed: Bits, length: int) -> None:
        secret = np.packbits(toeplitz(raw, seed, length)).tobytes()
        self.outcome = QkdOutcome(secret, self._transcript.digest()[:16], None, self._report)

    @staticmethod
    def wipe(*bits: Bits) -> None:
        """Overwrites raw key material; best effort: copies inside numpy and the key itself remain."""
        for array in bits:
            array.fill(0)

    def fail(self, reason: AbortReason) -> None:
        if self.outcome is None:
            self.outcome = QkdOutcome(None, b"", reason, self._report)

    def abort(self, reason: AbortReason) -> bytes:
        self.fail(reason)
        return Abort(self._session, int(reason)).encode()

    def receive_abort(self, message: bytes) -> None:
        """The peer's abort of this session; that of another one is ignored. Raises Rejected."""
        abort = Abort.parse(message)
        if abort.session != self._session:
            return
        try:
            self.fail(AbortReason(abort.reason))
        except ValueError:
            self.fail(AbortReason.PROTOCOL)
