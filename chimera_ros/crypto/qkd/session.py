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

A repeated message gets its answer again. Bob passes over what belongs to another session, as late answers do.
Anything else that does not fit ends the session; there is no way on.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

import numpy as np

from ..entropy.conditioning import Bits
from ..errors import Rejected
from ..trust.identity import CertifiedMember, MemberIdentity
from .amplify import seed_bits, toeplitz
from .cascade import CascadePlan, Corrector, Reference
from .endpoint import End, Ended, QkdConfig, QkdOutcome, Random, random_bits
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
    about,
    kind_of,
)

Z: Final = 0
X: Final = 1


class Alice(End):
    """Prepares photons and answers; `handle` every message of Bob's. One object is one session."""

    def __init__(self, config: QkdConfig, me: MemberIdentity, peer: CertifiedMember, random: Random) -> None:
        super().__init__(config, me, peer, random, alice=True)
        self._expected: tuple[Kind, ...] = (Kind.HELLO,)
        self._last: tuple[bytes, bytes] | None = None
        self._bits = random_bits(random, config.photons)
        self._bases = random_bits(random, config.photons)
        self._raw: Bits = self._bits[:0]
        self._reference: Reference | None = None
        self._key_seed: Bits = self._bits[:0]
        self._key_length = 0

    def handle(self, message: bytes) -> bytes:
        """The answer to a message. What does not fit ends the session with an abort; never raises."""
        if self._last is not None and message == self._last[0]:
            return self._last[1]
        if self.outcome is not None:
            return Abort(self._session, int(self.outcome.why or Why.PROTOCOL)).encode()
        try:
            kind = kind_of(message)
            if kind is Kind.ABORT:
                self.heard_abort(message)
                return Abort(self._session, int(Why.PROTOCOL)).encode()
            if kind not in self._expected:
                raise ValueError(f"{kind.name} does not come now")
            answer = _ALICE[kind](self, message)
        except Ended as ended:
            answer = self.aborted(ended.why)
        except (Rejected, ValueError):
            answer = self.aborted(Why.PROTOCOL)
        self._last = (message, answer)
        if self.over:  # of a repeated message only the answer is needed
            self.wipe(self._bits, self._raw)
            self._reference = None
        return answer

    def _on_hello(self, message: bytes) -> bytes:
        hello = Hello.parse(message)
        self._session = self._random(SESSION_BYTES)
        self.note(message)
        self._expected = (Kind.BASES,)
        return Photons(hello.nonce, self._session, self._bits, self._bases).encode()

    def _on_bases(self, message: bytes) -> bytes:
        theirs = Bases.parse(message)
        self.check_session(theirs.session)
        in_z = theirs.bases == Z
        if len(theirs.bases) != self.config.photons or len(theirs.sample) != np.count_nonzero(in_z):
            raise ValueError("bases of another number of photons")
        both_z = in_z & (self._bases == Z)
        sample = self._bits[both_z]
        self._raw = self._bits[(theirs.bases == X) & (self._bases == X)]
        seed = self._random(SEED_BYTES)
        rate = self.measure_errors(sample, theirs.sample[both_z[in_z]], len(self._raw))
        most = self.config.security.leak_limit // 2
        self._reference = Reference(self._raw, CascadePlan(seed, len(self._raw), rate), most)
        answer = Sifted(self._session, self._bases, sample, seed).encode()
        self.note(message, answer)
        self._expected = (Kind.QUESTIONS, Kind.FINISH)
        return answer

    def _on_questions(self, message: bytes) -> bytes:
        asked = Questions.parse(message)
        self.check_session(asked.session)
        assert self._reference is not None
        self._round += 1
        if asked.number != self._round:
            raise ValueError("questions out of order")
        if not asked.queries:
            raise ValueError("no questions: a session's rounds are bounded by its parities")
        answer = Parities(self._session, asked.number, self._reference.answer(asked.queries)).encode()
        self.note(message, answer)
        return answer

    def _on_finish(self, message: bytes) -> bytes:
        finish = Finish.parse(message)
        self.check_session(finish.session)
        assert self._reference is not None
        if finish.told != self._reference.parities:
            raise ValueError("parities were counted differently")
        self._key_length = self.length(finish.told)
        tag_bits = self.config.security.correctness_bits
        tag_seed = random_bits(self._random, seed_bits(len(self._raw), tag_bits))
        self._key_seed = random_bits(self._random, seed_bits(len(self._raw), self._key_length))
        tag = toeplitz(self._raw, tag_seed, tag_bits)
        unsigned = Hashes(self._session, self._key_length, tag_seed, tag, self._key_seed, b"")
        self.note(message, unsigned.encode())
        self._expected = (Kind.CONFIRM,)
        return Hashes(
            self._session, self._key_length, tag_seed, tag, self._key_seed, self.sign(b"alice")
        ).encode()

    def _on_confirm(self, message: bytes) -> bytes:
        confirm = Confirm.parse(message)
        self.check_session(confirm.session)
        if not self.verified(b"bob", confirm.signature):
            raise Ended(Why.SIGNATURE)
        self.succeed(self._raw, self._key_seed, self._key_length)
        return Done(self._session).encode()


_ALICE: Final[dict[Kind, Callable[[Alice, bytes], bytes]]] = {
    Kind.HELLO: Alice._on_hello,
    Kind.BASES: Alice._on_bases,
    Kind.QUESTIONS: Alice._on_questions,
    Kind.FINISH: Alice._on_finish,
    Kind.CONFIRM: Alice._on_confirm,
}


class Bob(End):
    """Measures and asks: `hello()`, `photons(answer)`, the quantum line, `measured(bits)`, then `handle`
    every answer and send what it returns, until it returns None. One object is one session.
    """

    def __init__(self, config: QkdConfig, me: MemberIdentity, peer: CertifiedMember, random: Random) -> None:
        super().__init__(config, me, peer, random, alice=False)
        self.bases = random_bits(random, config.photons)
        self._nonce = b""
        self._expected: tuple[Kind, ...] = ()
        self._found: Bits = self.bases[:0]
        self._corrector: Corrector | None = None
        self._sent = b""
        self._hashes: Hashes | None = None
        self._raw: Bits = self.bases[:0]

    def hello(self) -> bytes:
        """The first message."""
        self._nonce = self._random(SESSION_BYTES)
        message = Hello(self._nonce).encode()
        self.note(message)
        return message

    def photons(self, message: bytes) -> tuple[Bits, Bits] | None:
        """Bits and bases that Alice prepared, for the quantum line; None when there are none (`outcome`).

        What belongs to an earlier session is passed over: None, and no outcome.
        """
        try:
            if kind_of(message) is Kind.ABORT:
                self.heard_abort(message)
                return None
            if about(message) != self._nonce:
                return None
            photons = Photons.parse(message)
            if not len(photons.bits) == len(photons.bases) == self.config.photons:
                raise ValueError("another number of photons")
        except (Rejected, ValueError):
            self.fail(Why.PROTOCOL)
            return None
        self._session = photons.session
        return photons.bits, photons.bases

    def measured(self, found: Bits) -> bytes:
        """What the detector says, shape (photons,), in `bases`; returns the next message."""
        self._found = found.copy()
        self._expected = (Kind.SIFTED,)
        self._sent = Bases(self._session, self.bases, found[self.bases == Z]).encode()
        return self._sent

    def handle(self, message: bytes) -> bytes | None:
        """Alice's answer; returns what to send next, or None when the session is over (`outcome`).

        What belongs to an earlier session is passed over: None, and no outcome.
        """
        if self.outcome is not None:
            return None
        following = self._handle(message)
        if self.over:
            self.wipe(self._found, self._raw)
            self._corrector = None
        return following

    def _handle(self, message: bytes) -> bytes | None:
        try:
            kind = kind_of(message)
            if kind is Kind.ABORT:
                self.heard_abort(message)
                return None
            if about(message) != self._session:
                return None
            if kind not in self._expected:
                raise ValueError(f"{kind.name} does not come now")
            following = _BOB[kind](self, message)
        except Ended as ended:
            return self.aborted(ended.why)
        except (Rejected, ValueError):
            return self.aborted(Why.PROTOCOL)
        self._sent = following or b""
        return following

    def _on_sifted(self, message: bytes) -> bytes:
        sifted = Sifted.parse(message)
        self.check_session(sifted.session)
        if len(sifted.bases) != self.config.photons:
            raise ValueError("bases of another number of photons")
        both_z = (self.bases == Z) & (sifted.bases == Z)
        raw = self._found[(self.bases == X) & (sifted.bases == X)]
        self.note(self._sent, message)
        rate = self.measure_errors(self._found[both_z], sifted.sample, len(raw))
        self._corrector = Corrector(raw, CascadePlan(sifted.seed, len(raw), rate))
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
        self.check_session(answer.session)
        if answer.number != self._round:
            raise ValueError("an answer to other questions")
        assert self._corrector is not None
        self.note(self._sent, message)
        self._corrector.answer(answer.parities)
        return self._ask()

    def _on_hashes(self, message: bytes) -> bytes:
        hashes = Hashes.parse(message)
        self.check_session(hashes.session)
        assert self._corrector is not None
        unsigned = Hashes(
            hashes.session, hashes.length, hashes.tag_seed, hashes.tag, hashes.key_seed, b""
        ).encode()
        self.note(self._sent, unsigned)
        if not self.verified(b"alice", hashes.signature):
            raise Ended(Why.SIGNATURE)
        if hashes.length != self.length(self._corrector.parities):
            raise ValueError("another length of key")
        tag = toeplitz(self._raw, hashes.tag_seed, self.config.security.correctness_bits)
        if len(hashes.tag) != len(tag) or not hmac.compare_digest(tag.tobytes(), hashes.tag.tobytes()):
            raise Ended(Why.UNVERIFIED)
        if len(hashes.key_seed) != seed_bits(len(self._raw), hashes.length):
            raise ValueError("a key seed of another length")
        self._hashes = hashes
        self._expected = (Kind.DONE,)
        return Confirm(self._session, self.sign(b"bob")).encode()

    def _on_done(self, message: bytes) -> None:
        self.check_session(Done.parse(message).session)
        assert self._hashes is not None
        self.succeed(self._raw, self._hashes.key_seed, self._hashes.length)


_BOB: Final[dict[Kind, Callable[[Bob, bytes], bytes | None]]] = {
    Kind.SIFTED: Bob._on_sifted,
    Kind.PARITIES: Bob._on_parities,
    Kind.HASHES: Bob._on_hashes,
    Kind.DONE: Bob._on_done,
}

__all__ = ["Alice", "Bob", "Message", "QkdConfig", "QkdOutcome"]
