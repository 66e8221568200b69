"""BB84 session: Alice prepares photons and answers, Bob measures them and requests.

    Bob                                   Alice
    hello                          ->
                                   <-     photons (the quantum channel)
    bases, bits of basis Z         ->            after the measurement: bases are disclosed only now
                                   <-     bases, bits of basis Z, seed of the permutations
    parity request                 ->            Cascade over the bits of basis X, many rounds
                                   <-     parities
    finish                         ->
                                   <-     hash, seeds, key length, signature over the transcript
    confirm, with a signature      ->
                                   <-     done

The bits of basis X are the raw key, all bits of basis Z are the sample; photons with different bases are
dropped (sifting). Both endpoints sign (ML-DSA-87) a hash over every classical message, both identities and
the parameters; no key leaves a session before the peer's signature is verified. Bob's bases are in that hash,
so an impostor who answers Alice before Bob has measured would have to guess them.

A repeated message gets the same answer. Bob ignores messages of another session (late answers). Any other
unexpected message aborts the session.
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
from .endpoint import Endpoint, QkdConfig, QkdOutcome, Random, SessionAborted, random_bits
from .messages import (
    SEED_BYTES,
    SESSION_BYTES,
    Abort,
    AbortReason,
    Bases,
    Confirm,
    Done,
    Finish,
    Hashes,
    Hello,
    Kind,
    Message,
    Parities,
    ParityRequest,
    Photons,
    Sifted,
    kind_of,
    session_of,
)

Z: Final = 0
X: Final = 1


class Alice(Endpoint):
    """Preparing endpoint: pass every message of Bob to `handle`. One object is one session."""

    def __init__(
        self, config: QkdConfig, identity: MemberIdentity, peer: CertifiedMember, random: Random
    ) -> None:
        super().__init__(config, identity, peer, random, alice=True)
        self._expected: tuple[Kind, ...] = (Kind.HELLO,)
        self._last: tuple[bytes, bytes] | None = None
        self._bits = random_bits(random, config.photons)
        self._bases = random_bits(random, config.photons)
        self._raw: Bits = self._bits[:0]
        self._reference: Reference | None = None
        self._key_seed: Bits = self._bits[:0]
        self._key_length = 0

    def handle(self, message: bytes) -> bytes:
        """The answer to a message; an unexpected one aborts the session. Never raises."""
        if self._last is not None and message == self._last[0]:
            return self._last[1]
        if self.outcome is not None:
            return Abort(self._session, int(self.outcome.reason or AbortReason.PROTOCOL)).encode()
        try:
            kind = kind_of(message)
            if kind is Kind.ABORT:
                self.receive_abort(message)
                return Abort(self._session, int(AbortReason.PROTOCOL)).encode()
            if kind not in self._expected:
                raise ValueError(f"unexpected {kind.name}")
            answer = _ALICE[kind](self, message)
        except SessionAborted as aborted:
            answer = self.abort(aborted.reason)
        except (Rejected, ValueError):
            answer = self.abort(AbortReason.PROTOCOL)
        self._last = (message, answer)
        if self.finished:  # a repeated message needs only the stored answer
            self.wipe(self._bits, self._raw)
            self._reference = None
        return answer

    def _on_hello(self, message: bytes) -> bytes:
        hello = Hello.parse(message)
        self._session = self._random(SESSION_BYTES)
        self.record(message)
        self._expected = (Kind.BASES,)
        return Photons(hello.nonce, self._session, self._bits, self._bases).encode()

    def _on_bases(self, message: bytes) -> bytes:
        bases = Bases.parse(message)
        self.check_session(bases.session)
        in_z = bases.bases == Z
        if len(bases.bases) != self.config.photons or len(bases.sample) != np.count_nonzero(in_z):
            raise ValueError("bases for another number of photons")
        both_z = in_z & (self._bases == Z)
        sample = self._bits[both_z]
        self._raw = self._bits[(bases.bases == X) & (self._bases == X)]
        seed = self._random(SEED_BYTES)
        rate = self.measure_errors(sample, bases.sample[both_z[in_z]], len(self._raw))
        max_parities = self.config.security.leak_limit // 2
        self._reference = Reference(self._raw, CascadePlan(seed, len(self._raw), rate), max_parities)
        answer = Sifted(self._session, self._bases, sample, seed).encode()
        self.record(message, answer)
        self._expected = (Kind.PARITY_REQUEST, Kind.FINISH)
        return answer

    def _on_parity_request(self, message: bytes) -> bytes:
        request = ParityRequest.parse(message)
        self.check_session(request.session)
        assert self._reference is not None
        self._round += 1
        if request.number != self._round:
            raise ValueError("parity request out of order")
        if not request.queries:
            raise ValueError("empty parity request: the rounds of a session are bounded by its parities")
        answer = Parities(self._session, request.number, self._reference.answer(request.queries)).encode()
        self.record(message, answer)
        return answer

    def _on_finish(self, message: bytes) -> bytes:
        finish = Finish.parse(message)
        self.check_session(finish.session)
        assert self._reference is not None
        if finish.parities != self._reference.parities:
            raise ValueError("another number of parities")
        self._key_length = self.key_length(finish.parities)
        tag_bits = self.config.security.correctness_bits
        tag_seed = random_bits(self._random, seed_bits(len(self._raw), tag_bits))
        self._key_seed = random_bits(self._random, seed_bits(len(self._raw), self._key_length))
        tag = toeplitz(self._raw, tag_seed, tag_bits)
        unsigned = Hashes(self._session, self._key_length, tag_seed, tag, self._key_seed, b"")
        self.record(message, unsigned.encode())
        self._expected = (Kind.CONFIRM,)
        return Hashes(
            self._session, self._key_length, tag_seed, tag, self._key_seed, self.sign(b"alice")
        ).encode()

    def _on_confirm(self, message: bytes) -> bytes:
        confirm = Confirm.parse(message)
        self.check_session(confirm.session)
        if not self.verify(b"bob", confirm.signature):
            raise SessionAborted(AbortReason.SIGNATURE)
        self.succeed(self._raw, self._key_seed, self._key_length)
        return Done(self._session).encode()


_ALICE: Final[dict[Kind, Callable[[Alice, bytes], bytes]]] = {
    Kind.HELLO: Alice._on_hello,
    Kind.BASES: Alice._on_bases,
    Kind.PARITY_REQUEST: Alice._on_parity_request,
    Kind.FINISH: Alice._on_finish,
    Kind.CONFIRM: Alice._on_confirm,
}


class Bob(Endpoint):
    """Measuring endpoint: `hello()`, `photons(answer)`, the quantum channel, `measured(bits)`, then `handle`
    every answer and send what it returns, until it returns None. One object is one session.
    """

    def __init__(
        self, config: QkdConfig, identity: MemberIdentity, peer: CertifiedMember, random: Random
    ) -> None:
        super().__init__(config, identity, peer, random, alice=False)
        self.bases = random_bits(random, config.photons)
        self._nonce = b""
        self._expected: tuple[Kind, ...] = ()
        self._outcomes: Bits = self.bases[:0]
        self._corrector: Corrector | None = None
        self._sent = b""
        self._hashes: Hashes | None = None
        self._raw: Bits = self.bases[:0]

    def hello(self) -> bytes:
        """The first message."""
        self._nonce = self._random(SESSION_BYTES)
        message = Hello(self._nonce).encode()
        self.record(message)
        return message

    def photons(self, message: bytes) -> tuple[Bits, Bits] | None:
        """Bits and bases prepared by Alice, for the quantum channel; None if the session ended (`outcome`).

        Messages of an earlier session are ignored: None, and no outcome.
        """
        try:
            if kind_of(message) is Kind.ABORT:
                self.receive_abort(message)
                return None
            if session_of(message) != self._nonce:
                return None
            photons = Photons.parse(message)
            if not len(photons.bits) == len(photons.bases) == self.config.photons:
                raise ValueError("another number of photons")
        except (Rejected, ValueError):
            self.fail(AbortReason.PROTOCOL)
            return None
        self._session = photons.session
        return photons.bits, photons.bases

    def measured(self, outcomes: Bits) -> bytes:
        """The measured bits in `bases`, shape (photons,); returns the next message."""
        self._outcomes = outcomes.copy()
        self._expected = (Kind.SIFTED,)
        self._sent = Bases(self._session, self.bases, outcomes[self.bases == Z]).encode()
        return self._sent

    def handle(self, message: bytes) -> bytes | None:
        """Processes Alice's answer; returns the next message, or None when the session has ended (`outcome`).

        Messages of an earlier session are ignored: None, and no outcome.
        """
        if self.outcome is not None:
            return None
        reply = self._handle(message)
        if self.finished:
            self.wipe(self._outcomes, self._raw)
            self._corrector = None
        return reply

    def _handle(self, message: bytes) -> bytes | None:
        try:
            kind = kind_of(message)
            if kind is Kind.ABORT:
                self.receive_abort(message)
                return None
            if session_of(message) != self._session:
                return None
            if kind not in self._expected:
                raise ValueError(f"unexpected {kind.name}")
            reply = _BOB[kind](self, message)
        except SessionAborted as aborted:
            return self.abort(aborted.reason)
        except (Rejected, ValueError):
            return self.abort(AbortReason.PROTOCOL)
        self._sent = reply or b""
        return reply

    def _on_sifted(self, message: bytes) -> bytes:
        sifted = Sifted.parse(message)
        self.check_session(sifted.session)
        if len(sifted.bases) != self.config.photons:
            raise ValueError("bases for another number of photons")
        both_z = (self.bases == Z) & (sifted.bases == Z)
        raw = self._outcomes[(self.bases == X) & (sifted.bases == X)]
        self.record(self._sent, message)
        rate = self.measure_errors(self._outcomes[both_z], sifted.sample, len(raw))
        self._corrector = Corrector(raw, CascadePlan(sifted.seed, len(raw), rate))
        self._expected = (Kind.PARITIES,)
        return self._request_parities()

    def _request_parities(self) -> bytes:
        assert self._corrector is not None
        queries = self._corrector.queries()
        if queries:
            self._round += 1
            return ParityRequest(self._session, self._round, queries).encode()
        self._report["rounds"] = self._round
        self._raw = self._corrector.key
        self._report["corrected_bits"] = self._corrector.corrected
        self._expected = (Kind.HASHES,)
        return Finish(self._session, self._corrector.parities).encode()

    def _on_parities(self, message: bytes) -> bytes:
        answer = Parities.parse(message)
        self.check_session(answer.session)
        if answer.number != self._round:
            raise ValueError("the answer to another parity request")
        assert self._corrector is not None
        self.record(self._sent, message)
        self._corrector.answer(answer.parities)
        return self._request_parities()

    def _on_hashes(self, message: bytes) -> bytes:
        hashes = Hashes.parse(message)
        self.check_session(hashes.session)
        assert self._corrector is not None
        unsigned = Hashes(
            hashes.session, hashes.length, hashes.tag_seed, hashes.tag, hashes.key_seed, b""
        ).encode()
        self.record(self._sent, unsigned)
        if not self.verify(b"alice", hashes.signature):
            raise SessionAborted(AbortReason.SIGNATURE)
        if hashes.length != self.key_length(self._corrector.parities):
            raise ValueError("another key length")
        tag = toeplitz(self._raw, hashes.tag_seed, self.config.security.correctness_bits)
        if len(hashes.tag) != len(tag) or not hmac.compare_digest(tag.tobytes(), hashes.tag.tobytes()):
            raise SessionAborted(AbortReason.UNVERIFIED)
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
