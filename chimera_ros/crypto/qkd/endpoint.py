"""What both ends of a BB84 session have in common: parameters, transcript, error rate, the key at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..encoding import fields
from ..entropy.conditioning import Bits
from ..primitives import labels
from ..trust.identity import CertifiedMember, MemberIdentity
from .amplify import toeplitz
from .finite_key import ABORT_RATE, Security, secret_bits
from .messages import SESSION_BYTES, Abort, Why
from .quantum_channel import MAX_PHOTONS

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class QkdConfig:
    """photons: sent in one session; a quarter of them makes the key, a quarter the sample."""

    photons: int = 16384
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        if not 1024 <= self.photons <= MAX_PHOTONS:
            raise ValueError(f"{self.photons} photons; allowed are 1024 to {MAX_PHOTONS}")

    @property
    def least(self) -> int:
        """Fewer bits than this in key or sample end the session."""
        return self.photons // 8

    def encode(self) -> bytes:
        """What both ends must agree on, in the transcript."""
        return repr((self.photons, ABORT_RATE, self.security)).encode("ascii")


@dataclass(frozen=True, slots=True)
class QkdOutcome:
    """secret: the key's whole bytes, None when there is none; `why` then says so.
    key_id: 16 bytes, the same at both ends. report: JSON-ready.
    """

    secret: bytes | None = field(repr=False)
    key_id: bytes = b""
    why: Why | None = None
    report: dict[str, Any] = field(default_factory=dict)


def random_bits(random: Random, count: int) -> Bits:
    return np.unpackbits(np.frombuffer(random((count + 7) // 8), dtype=np.uint8))[:count]


class Ended(Exception):
    """The session is over, and why."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.name)
        self.why = why


class End:
    """What Alice and Bob have in common."""

    def __init__(
        self, config: QkdConfig, me: MemberIdentity, peer: CertifiedMember, random: Random, alice: bool
    ) -> None:
        self.config = config
        self.outcome: QkdOutcome | None = None
        self._me = me
        self._peer = peer
        self._random = random
        self._session = bytes(SESSION_BYTES)
        ends = (me.fingerprint, peer.fingerprint) if alice else (peer.fingerprint, me.fingerprint)
        self._transcript = hashlib.sha3_512(
            fields(labels.QKD_TRANSCRIPT, me.swarm.encode("ascii"), *ends, config.encode())
        )
        self._round = 0
        self._report: dict[str, Any] = {"photons": config.photons}

    @property
    def over(self) -> bool:
        """Whether the session has ended, with a key or without."""
        return self.outcome is not None

    def note(self, *messages: bytes) -> None:
        """Classical messages, in order, into the transcript."""
        self._transcript.update(fields(*messages))

    def sign(self, who: bytes) -> bytes:
        """Our signature over the transcript so far."""
        return self._me.sign(fields(who, self._transcript.digest()), labels.SIGN_QKD)

    def verified(self, who: bytes, signature: bytes) -> bool:
        """Whether the other end has signed the same transcript."""
        return self._peer.verify(signature, fields(who, self._transcript.digest()), labels.SIGN_QKD)

    def check_session(self, session: bytes) -> None:
        """Raises ValueError for a message of another session."""
        if session != self._session:
            raise ValueError("another session")

    def measure_errors(self, mine: Bits, theirs: Bits, n: int) -> float:
        """Error rate of the sample. Raises Ended."""
        if len(mine) != len(theirs):
            raise ValueError("samples of different length")
        k, errors = len(mine), int(np.count_nonzero(mine != theirs))
        self._report.update(key_bits=n, sample_bits=k, sample_errors=errors)
        if min(n, k) < self.config.least:
            raise Ended(Why.TOO_FEW)
        self._report["error_rate"] = errors / k
        if errors > ABORT_RATE * k:
            raise Ended(Why.ERRORS)
        return errors / k

    def length(self, parities: int) -> int:
        """Bits of the key, whole bytes. Raises Ended when there are none."""
        report = self._report
        leak = 2 * parities
        bits = secret_bits(
            report["key_bits"], report["sample_bits"], report["sample_errors"], leak, self.config.security
        )
        report.update(parities=parities, leak_bits=leak, secret_bits=bits // 8 * 8)
        if bits < 8:
            raise Ended(Why.NO_BITS)
        return bits // 8 * 8

    def succeed(self, raw: Bits, seed: Bits, length: int) -> None:
        secret = np.packbits(toeplitz(raw, seed, length)).tobytes()
        self.outcome = QkdOutcome(secret, self._transcript.digest()[:16], None, self._report)

    @staticmethod
    def wipe(*bits: Bits) -> None:
        """Overwrites what made the key; best effort, copies inside numpy and the key's own bytes remain."""
        for array in bits:
            array.fill(0)

    def fail(self, why: Why) -> None:
        if self.outcome is None:
            self.outcome = QkdOutcome(None, b"", why, self._report)

    def aborted(self, why: Why) -> bytes:
        self.fail(why)
        return Abort(self._session, int(why)).encode()

    def heard_abort(self, message: bytes) -> None:
        """The other end ends this session; the end of another one is passed over. Raises Rejected."""
        abort = Abort.parse(message)
        if abort.session != self._session:
            return
        try:
            self.fail(Why(abort.why))
        except ValueError:
            self.fail(Why.PROTOCOL)
