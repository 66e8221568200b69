"""A BB84 session: Alice prepares and answers, Bob measures and asks.

    Bob                                   Alice
    hello                          ->
                                   <-     photons (the quantum line)
    bases, his bits of basis Z     ->            Bob has measured: only now may bases be told
                                   <-     bases, her bits of basis Z, seed of the shuffles
    questions                      ->            Cascade over the bits of basis X, many rounds
                                   <-     parities
    finish                         ->
                                   <-     hash, seeds, key length, signature over the transcript
    confirm, with a signature      ->
                                   <-     done

The bits of basis X make the key, all bits of basis Z are the sample. Photons of which the two bases differ
are dropped. Both ends sign (ML-DSA-87) a hash over every classical message, who they are, and the parameters;
no key leaves a session before the other end's signature is checked. Bob's bases are in that hash: whoever
answers Alice in his place before he has measured would have to guess them.

A repeated message gets its answer again. Anything that does not fit ends the session; there is no way on.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from .. import labels
from ..conditioning import Bits
from ..encoding import fields
from ..errors import Rejected
from ..identity import CertifiedMember, MemberIdentity
from .amplify import seed_bits, toeplitz
from .cascade import Corrector, Plan, Reference
from .finite_key import ABORT_RATE, Security, secret_bits
from .line import MAX_PHOTONS
from .messages import (
    SEED_BYTES,
    SESSION_BYTES,
    Abort,
    Bases,
    Confirm,
    Done,
    Finish,
    Hashes,
    Hello,
    Kind,
    Message,
    Parities,
    Photons,
    Questions,
    Sifted,
    Why,
    kind_of,
)

Random = Callable[[int], bytes]

Z: Final = 0
X: Final = 1


@dataclass(frozen=True, slots=True)
class SessionConfig:
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
class Outcome:
    """secret: the key's whole bytes, None when there is none; `why` then says so. report: JSON-ready."""

    secret: bytes | None = field(repr=False)
    key_id: bytes = b""
    why: Why | None = None
    report: dict[str, Any] = field(default_factory=dict)


def random_bits(random: Random, count: int) -> Bits:
    return np.unpackbits(np.frombuffer(random((count + 7) // 8), dtype=np.uint8))[:count]


class _End:
    """What Alice and Bob have in common."""

    def __init__(
        self, config: SessionConfig, me: MemberIdentity, peer: CertifiedMember, random: Random, alice: bool
    ) -> None:
        self.config = config
        self.outcome: Outcome | None = None
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

    def _note(self, *messages: bytes) -> None:
        self._transcript.update(fields(*messages))

    def _sign(self, who: bytes) -> bytes:
        return self._me.sign(fields(who, self._transcript.digest()), labels.SIGN_QKD)

    def _verified(self, who: bytes, signature: bytes) -> bool:
        return self._peer.verify(signature, fields(who, self._transcript.digest()), labels.SIGN_QKD)

    def _check_session(self, session: bytes) -> None:
        if session != self._session:
            raise ValueError("another session")

    def _measure_errors(self, mine: Bits, theirs: Bits, n: int) -> float:
        """Error rate of the sample. Raises _Ended."""
        if len(mine) != len(theirs):
            raise ValueError("samples of different length")
        k, errors = len(mine), int(np.count_nonzero(mine != theirs))
        self._report.update(key_bits=n, sample_bits=k, sample_errors=errors)
        if min(n, k) < self.config.least:
            raise _Ended(Why.TOO_FEW)
        self._report["error_rate"] = errors / k
        if errors > ABORT_RATE * k:
            raise _Ended(Why.ERRORS)
        return errors / k

    def _length(self, parities: int) -> int:
        """Bits of the key, whole bytes. Raises _Ended when there are none."""
        report = self._report
        leak = 2 * parities
        bits = secret_bits(
            report["key_bits"], report["sample_bits"], report["sample_errors"], leak, self.config.security
        )
        report.update(parities=parities, leak_bits=leak, secret_bits=bits // 8 * 8)
        if bits < 8:
            raise _Ended(Why.NO_BITS)
        return bits // 8 * 8

    def _succeed(self, raw: Bits, seed: Bits, length: int) -> None:
        secret = np.packbits(toeplitz(raw, seed, length)).tobytes()
        key_id = hashlib.sha3_256(fields(labels.QKD_KEY_ID, self._transcript.digest())).digest()[:16]
        self.outcome = Outcome(secret, key_id, None, self._report)

    def _fail(self, why: Why) -> None:
        if self.outcome is None:
            self.outcome = Outcome(None, b"", why, self._report)

    def _aborted(self, why: Why) -> bytes:
        self._fail(why)
        return Abort(self._session, int(why)).encode()

    def _heard_abort(self, message: bytes) -> None:
        try:
            self._fail(Why(Abort.parse(message).why))
        except ValueError:
            self._fail(Why.PROTOCOL)


class _Ended(Exception):
    def __init__(self, why: Why) -> None:
        super().__init__(why.name)
        self.why = why


class Alice(_End):
    """Prepares photons and answers; `handle` every message of Bob's. One object is one session."""

    def __init__(
        self, config: SessionConfig, me: MemberIdentity, peer: CertifiedMember, random: Random
    ) -> None:
        super().__init__(config, me, peer, random, alice=True)
        self._expected: tuple[Kind, ...] = (Kind.HELLO,)
        self._last: tuple[bytes, bytes] = (b"", b"")
        self._bits = random_bits(random, config.photons)
        self._bases = random_bits(random, config.photons)
        self._raw: Bits = self._bits[:0]
        self._reference: Reference | None = None
        self._key_seed: Bits = self._bits[:0]
        self._key_length = 0

    def handle(self, message: bytes) -> bytes:
        """The answer to a message. What does not fit ends the session with an abort; never raises."""
        if message == self._last[0]:
            return self._last[1]
        if self.outcome is not None:
            return Abort(self._session, int(self.outcome.why or Why.PROTOCOL)).encode()
        try:
            kind = kind_of(message)
            if kind is Kind.ABORT:
                self._heard_abort(message)
                return Abort(self._session, int(Why.PROTOCOL)).encode()
            if kind not in self._expected:
                raise ValueError(f"{kind.name} does not come now")
            answer = _ALICE[kind](self, message)
        except _Ended as ended:
            answer = self._aborted(ended.why)
        except (Rejected, ValueError):
            answer = self._aborted(Why.PROTOCOL)
        self._last = (message, answer)
        return answer

    def _on_hello(self, message: bytes) -> bytes:
        Hello.parse(message)
        self._session = self._random(SESSION_BYTES)
        self._note(message)
        self._expected = (Kind.BASES,)
        return Photons(self._session, self._bits, self._bases).encode()

    def _on_bases(self, message: bytes) -> bytes:
        theirs = Bases.parse(message)
        self._check_session(theirs.session)
        in_z = theirs.bases == Z
        if len(theirs.bases) != self.config.photons or len(theirs.sample) != np.count_nonzero(in_z):
            raise ValueError("bases of another number of photons")
        both_z = in_z & (self._bases == Z)
        sample = self._bits[both_z]
        self._raw = self._bits[(theirs.bases == X) & (self._bases == X)]
        seed = self._random(SEED_BYTES)
        rate = self._measure_errors(sample, theirs.sample[both_z[in_z]], len(self._raw))
        most = self.config.security.leak_limit // 2
        self._reference = Reference(self._raw, Plan(seed, len(self._raw), rate), most)
        answer = Sifted(self._session, self._bases, sample, seed).encode()
        self._note(message, answer)
        self._expected = (Kind.QUESTIONS, Kind.FINISH)
        return answer

    def _on_questions(self, message: bytes) -> bytes:
        asked = Questions.parse(message)
        self._check_session(asked.session)
        assert self._reference is not None
        self._round += 1
        if asked.number != self._round:
            raise ValueError("questions out of order")
        answer = Parities(self._session, asked.number, self._reference.answer(asked.queries)).encode()
        self._note(message, answer)
        return answer

    def _on_finish(self, message: bytes) -> bytes:
        finish = Finish.parse(message)
        self._check_session(finish.session)
        assert self._reference is not None
        if finish.told != self._reference.parities:
            raise ValueError("parities were counted differently")
        self._key_length = self._length(finish.told)
        tag_bits = self.config.security.correctness_bits
        tag_seed = random_bits(self._random, seed_bits(len(self._raw), tag_bits))
        self._key_seed = random_bits(self._random, seed_bits(len(self._raw), self._key_length))
        tag = toeplitz(self._raw, tag_seed, tag_bits)
        unsigned = Hashes(self._session, self._key_length, tag_seed, tag, self._key_seed, b"")
        self._note(message, unsigned.encode())
        self._expected = (Kind.CONFIRM,)
        return Hashes(
            self._session, self._key_length, tag_seed, tag, self._key_seed, self._sign(b"alice")
        ).encode()

    def _on_confirm(self, message: bytes) -> bytes:
        confirm = Confirm.parse(message)
        self._check_session(confirm.session)
        if not self._verified(b"bob", confirm.signature):
            raise _Ended(Why.SIGNATURE)
        self._succeed(self._raw, self._key_seed, self._key_length)
        return Done(self._session).encode()


_ALICE: Final[dict[Kind, Callable[[Alice, bytes], bytes]]] = {
    Kind.HELLO: Alice._on_hello,
    Kind.BASES: Alice._on_bases,
    Kind.QUESTIONS: Alice._on_questions,
    Kind.FINISH: Alice._on_finish,
    Kind.CONFIRM: Alice._on_confirm,
}


class Bob(_End):
    """Measures and asks: `hello()`, `photons(answer)`, the quantum line, `measured(bits)`, then `handle`
    every answer and send what it returns, until it returns None. One object is one session.
    """

    def __init__(
        self, config: SessionConfig, me: MemberIdentity, peer: CertifiedMember, random: Random
    ) -> None:
        super().__init__(config, me, peer, random, alice=False)
        self.bases = random_bits(random, config.photons)
        self._expected: tuple[Kind, ...] = ()
        self._found: Bits = self.bases[:0]
        self._corrector: Corrector | None = None
        self._sent = b""
        self._hashes: Hashes | None = None
        self._raw: Bits = self.bases[:0]

    def hello(self) -> bytes:
        """The first message."""
        message = Hello(self._random(SESSION_BYTES)).encode()
        self._note(message)
        return message

    def photons(self, message: bytes) -> tuple[Bits, Bits] | None:
        """Bits and bases that Alice prepared, for the quantum line; None when there are none (`outcome`)."""
        try:
            if kind_of(message) is Kind.ABORT:
                self._heard_abort(message)
                return None
            photons = Photons.parse(message)
            if not len(photons.bits) == len(photons.bases) == self.config.photons:
                raise ValueError("another number of photons")
        except (Rejected, ValueError):
            self._fail(Why.PROTOCOL)
            return None
        self._session = photons.session
        return photons.bits, photons.bases

    def measured(self, found: Bits) -> bytes:
        """What the detector says, shape (photons,), in `bases`; returns the next message."""
        self._found = found
        self._expected = (Kind.SIFTED,)
        self._sent = Bases(self._session, self.bases, found[self.bases == Z]).encode()
        return self._sent

    def handle(self, message: bytes) -> bytes | None:
        """Alice's answer; returns what to send next, or None when the session is over (`outcome`)."""
        if self.outcome is not None:
            return None
        try:
            kind = kind_of(message)
            if kind is Kind.ABORT:
                self._heard_abort(message)
                return None
            if kind not in self._expected:
                raise ValueError(f"{kind.name} does not come now")
            following = _BOB[kind](self, message)
        except _Ended as ended:
            return self._aborted(ended.why)
        except (Rejected, ValueError):
            return self._aborted(Why.PROTOCOL)
        self._sent = following or b""
        return following

    def _on_sifted(self, message: bytes) -> bytes:
        sifted = Sifted.parse(message)
        self._check_session(sifted.session)
        if len(sifted.bases) != self.config.photons:
            raise ValueError("bases of another number of photons")
        both_z = (self.bases == Z) & (sifted.bases == Z)
        raw = self._found[(self.bases == X) & (sifted.bases == X)]
        self._note(self._sent, message)
        rate = self._measure_errors(self._found[both_z], sifted.sample, len(raw))
        self._corrector = Corrector(raw, Plan(sifted.seed, len(raw), rate))
        self._expected = (Kind.PARITIES,)
        return self._ask()

    def _ask(self) -> bytes:
        assert self._corrector is not None
        queries = self._corrector.queries()
        if queries:
            self._round += 1
            return Questions(self._session, self._round, queries).encode()
        self._report["rounds"] = self._round
        self._raw = self._corrector.key
        self._report["corrected_bits"] = self._corrector.corrected
        self._expected = (Kind.HASHES,)
        return Finish(self._session, self._corrector.parities).encode()

    def _on_parities(self, message: bytes) -> bytes:
        answer = Parities.parse(message)
        self._check_session(answer.session)
        if answer.number != self._round:
            raise ValueError("an answer to other questions")
        assert self._corrector is not None
        self._note(self._sent, message)
        self._corrector.answer(answer.parities)
        return self._ask()

    def _on_hashes(self, message: bytes) -> bytes:
        hashes = Hashes.parse(message)
        self._check_session(hashes.session)
        assert self._corrector is not None
        unsigned = Hashes(
            hashes.session, hashes.length, hashes.tag_seed, hashes.tag, hashes.key_seed, b""
        ).encode()
        self._note(self._sent, unsigned)
        if not self._verified(b"alice", hashes.signature):
            raise _Ended(Why.SIGNATURE)
        if hashes.length != self._length(self._corrector.parities):
            raise ValueError("another length of key")
        tag = toeplitz(self._raw, hashes.tag_seed, self.config.security.correctness_bits)
        if len(hashes.tag) != len(tag) or not hmac.compare_digest(tag.tobytes(), hashes.tag.tobytes()):
            raise _Ended(Why.UNVERIFIED)
        if len(hashes.key_seed) != seed_bits(len(self._raw), hashes.length):
            raise ValueError("a key seed of another length")
        self._hashes = hashes
        self._expected = (Kind.DONE,)
        return Confirm(self._session, self._sign(b"bob")).encode()

    def _on_done(self, message: bytes) -> None:
        self._check_session(Done.parse(message).session)
        assert self._hashes is not None
        self._succeed(self._raw, self._hashes.key_seed, self._hashes.length)


_BOB: Final[dict[Kind, Callable[[Bob, bytes], bytes | None]]] = {
    Kind.SIFTED: Bob._on_sifted,
    Kind.PARITIES: Bob._on_parities,
    Kind.HASHES: Bob._on_hashes,
    Kind.DONE: Bob._on_done,
}

__all__ = ["Alice", "Bob", "Message", "Outcome", "SessionConfig"]
