"""BB84 end to end over a simulated line: keys agree, eavesdroppers and forgers get none, junk ends it."""

import os
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.crypto.entropy.conditioning import unpack
from chimera_ros.crypto.entropy.health_tests import HealthTest, NoiseSource
from chimera_ros.crypto.qkd.finite_key import Security, secret_bits
from chimera_ros.crypto.qkd.messages import (
    AbortReason,
    Bases,
    Confirm,
    Finish,
    Hashes,
    Kind,
    ParityRequest,
    Sifted,
    kind_of,
)
from chimera_ros.crypto.qkd.quantum_channel import (
    QuantumChannel,
    Run,
    Simulator,
    born_rule,
    decode_run,
    encode_run,
    transmit,
)
from chimera_ros.crypto.qkd.session import Alice, Bob, QkdConfig
from chimera_ros.crypto.testing.swarm import MemoryKeystore
from chimera_ros.crypto.trust.identity import MemberIdentity
from chimera_ros.crypto.trust.roles import Role

KEYS = MemoryKeystore()
CRYPTO = KEYS.enroll("crypto_0", Role.CRYPTO)
LEADER = KEYS.enroll("leader_0", Role.LEADER)
STRANGER = KEYS.enroll("drone_01", Role.DRONE)

Meddler = Callable[[str, bytes], bytes]


def run_session(
    line: QuantumChannel,
    seed: int = 1,
    config: QkdConfig | None = None,
    meddler: Meddler = lambda _, message: message,
    simulator: Simulator = born_rule,
    bob_is: MemberIdentity = LEADER,
) -> tuple[Alice, Bob]:
    source = random.Random(seed).randbytes
    config = config or QkdConfig()
    alice = Alice(config, CRYPTO, LEADER.member, source)
    bob = Bob(config, bob_is, CRYPTO.member, source)
    photons = bob.photons(meddler("alice", alice.handle(meddler("bob", bob.hello()))))
    assert photons is not None
    message: bytes | None = bob.measured(transmit(*photons, bob.bases, line, simulator, source))
    while message is not None:
        message = bob.handle(meddler("alice", alice.handle(meddler("bob", message))))
    return alice, bob


def test_both_ends_get_one_key() -> None:
    for seed in range(6):
        alice, bob = run_session(QuantumChannel(0.01), seed)
        assert alice.outcome is not None and bob.outcome is not None
        secret = alice.outcome.secret
        assert secret is not None and secret == bob.outcome.secret
        assert alice.outcome.key_id == bob.outcome.key_id
        assert len(secret) * 8 == alice.outcome.report["secret_bits"] >= 256
        report = alice.outcome.report
        assert report["leak_bits"] == bob.outcome.report["leak_bits"] == 2 * report["parities"]
        bound = secret_bits(
            report["key_bits"],
            report["sample_bits"],
            report["sample_errors"],
            2 * report["parities"],
            QkdConfig().security,
        )
        assert len(secret) == bound // 8
        assert HealthTest(NoiseSource(1, 1.0)).feed(unpack(secret)) is None
        assert str(secret) not in repr(alice.outcome)


@pytest.mark.parametrize("intercepted", [0.0, 1.0])
def test_what_made_the_key_is_overwritten_at_the_end(intercepted: float) -> None:
    alice, bob = run_session(QuantumChannel(0.01, intercepted))
    assert alice.outcome is not None and bob.outcome is not None
    assert not any(bits.any() for bits in (alice._bits, alice._raw, bob._outcomes, bob._raw))
    assert alice._reference is None and bob._corrector is None


@pytest.mark.parametrize("seed", range(25))
def test_an_eavesdropper_is_caught(seed: int) -> None:
    alice, bob = run_session(QuantumChannel(0.01, intercepted=1.0), seed)
    assert alice.outcome is not None and bob.outcome is not None
    assert alice.outcome.secret is None and bob.outcome.secret is None
    assert alice.outcome.reason is bob.outcome.reason is AbortReason.ERRORS
    assert 0.2 < alice.outcome.report["error_rate"] < 0.32


@pytest.mark.parametrize("intercepted", [0.05, 0.1, 0.2, 0.4, 0.6])
def test_who_listens_to_a_part_costs_at_least_what_she_learns(intercepted: float) -> None:
    """Of an intercepted photon whose basis she guessed she knows the bit: half of them."""
    clear, _ = run_session(QuantumChannel(0.0))
    spied, bob = run_session(QuantumChannel(0.0, intercepted))
    assert clear.outcome is not None and spied.outcome is not None and bob.outcome is not None
    known = 0.5 * intercepted * clear.outcome.report["key_bits"]
    lost = clear.outcome.report["secret_bits"] - spied.outcome.report.get("secret_bits", 0)
    assert spied.outcome.secret is None or lost >= known
    assert spied.outcome.secret == bob.outcome.secret


def test_too_few_photons_leave_no_key() -> None:
    alice, bob = run_session(QuantumChannel(0.01), config=QkdConfig(photons=2048))
    assert alice.outcome is not None and bob.outcome is not None
    assert alice.outcome.reason is bob.outcome.reason is AbortReason.NO_BITS


def no_key(alice: Alice, bob: Bob, reason: AbortReason | None = None) -> None:
    """Bob may believe in the end of a session whose last message Alice never got; never both, never apart."""
    assert alice.outcome is None or alice.outcome.secret is None
    assert bob.outcome is None or bob.outcome.secret is None
    if reason is not None:
        assert bob.outcome is not None and bob.outcome.reason is reason


def swap_bases(who: str, message: bytes) -> bytes:
    """A forger who answers Alice before Bob has measured, with bases of his own."""
    if who == "bob" and kind_of(message) is Kind.BASES:
        bases = Bases.parse(message)
        return Bases(bases.session, np.zeros_like(bases.bases), np.zeros_like(bases.bases)).encode()
    return message


def swap_sample(who: str, message: bytes) -> bytes:
    if who == "alice" and kind_of(message) is Kind.SIFTED:
        sifted = Sifted.parse(message)
        sample = sifted.sample.copy()
        sample[0] ^= 1
        return Sifted(sifted.session, sifted.bases, sample, sifted.seed).encode()
    return message


def flip_parity(who: str, message: bytes) -> bytes:
    if who == "alice" and kind_of(message) is Kind.PARITIES and message[25] & 1 == 0:
        return message[:25] + bytes([message[25] ^ 0x80]) + message[26:]
    return message


def swap_tag(who: str, message: bytes) -> bytes:
    if who == "alice" and kind_of(message) is Kind.HASHES:
        hashes = Hashes.parse(message)
        tag = 1 - hashes.tag
        return Hashes(
            hashes.session, hashes.length, hashes.tag_seed, tag, hashes.key_seed, hashes.signature
        ).encode()
    return message


@pytest.mark.parametrize("meddler", [swap_bases, swap_sample, flip_parity, swap_tag])
def test_a_changed_message_leaves_no_key(meddler: Meddler) -> None:
    no_key(*run_session(QuantumChannel(0.01), meddler=meddler))


def spoil_signature(who: str, message: bytes) -> bytes:
    return (
        message[:-1] + bytes([message[-1] ^ 1]) if who == "alice" and message[0] == Kind.HASHES else message
    )


def spoil_confirmation(who: str, message: bytes) -> bytes:
    return message[:-1] + bytes([message[-1] ^ 1]) if who == "bob" and message[0] == Kind.CONFIRM else message


def test_each_end_checks_the_others_signature() -> None:
    alice, bob = run_session(QuantumChannel(0.01), meddler=spoil_signature)
    no_key(alice, bob, AbortReason.SIGNATURE)
    alice, bob = run_session(QuantumChannel(0.01), meddler=spoil_confirmation)
    no_key(alice, bob)
    assert alice.outcome is not None and alice.outcome.reason is AbortReason.SIGNATURE


def test_alices_own_signature_is_no_confirmation() -> None:
    said: list[bytes] = []

    def reflect(who: str, message: bytes) -> bytes:
        if message[0] == Kind.HASHES:
            said.append(Hashes.parse(message).signature)
        if message[0] == Kind.CONFIRM:
            return Confirm(Confirm.parse(message).session, said[0]).encode()
        return message

    alice, bob = run_session(QuantumChannel(0.01), meddler=reflect)
    no_key(alice, bob)
    assert said and alice.outcome is not None and alice.outcome.reason is AbortReason.SIGNATURE


def test_transcripts_hold_who_and_what() -> None:
    def transcript(me: MemberIdentity, peer: MemberIdentity, config: QkdConfig, end: type) -> bytes:
        digest: bytes = end(config, me, peer.member, os.urandom)._transcript.digest()
        return digest

    config = QkdConfig()
    ours = transcript(CRYPTO, LEADER, config, Alice)
    assert transcript(LEADER, CRYPTO, config, Bob) == ours
    others = {
        transcript(CRYPTO, STRANGER, config, Alice),
        transcript(STRANGER, LEADER, config, Alice),
        transcript(LEADER, CRYPTO, config, Alice),  # the other way round
        transcript(CRYPTO, LEADER, QkdConfig(photons=8192), Alice),
        transcript(CRYPTO, LEADER, QkdConfig(security=Security(secrecy=1e-6)), Alice),
    }
    assert len(others | {ours}) == 6


def test_an_error_that_is_left_is_found_by_the_hash() -> None:
    """Every signature is good: nobody meddled, reconciliation failed."""
    source = random.Random(11).randbytes
    alice = Alice(QkdConfig(), CRYPTO, LEADER.member, source)
    bob = Bob(QkdConfig(), LEADER, CRYPTO.member, source)
    photons = bob.photons(alice.handle(bob.hello()))
    assert photons is not None
    message: bytes | None = bob.measured(
        transmit(*photons, bob.bases, QuantumChannel(0.01), born_rule, source)
    )
    while message is not None:
        if kind_of(message) is Kind.FINISH:
            bob._raw[17] ^= 1
        message = bob.handle(alice.handle(message))
    no_key(alice, bob, AbortReason.UNVERIFIED)


def count_otherwise(who: str, message: bytes) -> bytes:
    if message[0] == Kind.FINISH:
        finish = Finish.parse(message)
        return Finish(finish.session, finish.parities - 1).encode()
    return message


def test_alice_counts_for_herself() -> None:
    alice, bob = run_session(QuantumChannel(0.01), meddler=count_otherwise)
    no_key(alice, bob)
    assert alice.outcome is not None and alice.outcome.reason is AbortReason.PROTOCOL


def test_seeds_of_the_hashes_are_fresh_and_independent() -> None:
    seen: list[Hashes] = []

    def listen(who: str, message: bytes) -> bytes:
        if message[0] == Kind.HASHES:
            seen.append(Hashes.parse(message))
        return message

    for seed in (1, 2):
        run_session(QuantumChannel(0.01), seed, meddler=listen)
    seeds = [bits for hashes in seen for bits in (hashes.tag_seed, hashes.key_seed)]
    assert len(seeds) == 4
    for bits in seeds:
        assert HealthTest(NoiseSource(1, 1.0)).feed(bits) is None
        assert abs(bits.mean() - 0.5) < 0.05
    assert len({bits[:1024].tobytes() for bits in seeds}) == 4


def test_a_stranger_gets_no_key() -> None:
    alice, bob = run_session(QuantumChannel(0.01), bob_is=STRANGER)
    no_key(alice, bob, AbortReason.SIGNATURE)


def test_other_parameters_get_no_key() -> None:
    source = random.Random(3).randbytes
    alice = Alice(QkdConfig(), CRYPTO, LEADER.member, source)
    bob = Bob(QkdConfig(photons=8192), LEADER, CRYPTO.member, source)
    assert bob.photons(alice.handle(bob.hello())) is None
    no_key(alice, bob, AbortReason.PROTOCOL)


def test_repeated_messages_get_the_same_answer_and_tell_nothing_more() -> None:
    def ask_twice(who: str, message: bytes) -> bytes:
        if who == "bob":
            answer = alice.handle(message)
            told = alice._report.get("parities")
            assert alice.handle(message) == answer
            assert alice._report.get("parities") == told
        return message

    source = random.Random(4).randbytes
    alice = Alice(QkdConfig(), CRYPTO, LEADER.member, source)
    bob = Bob(QkdConfig(), LEADER, CRYPTO.member, source)
    photons = bob.photons(alice.handle(bob.hello()))
    assert photons is not None
    message: bytes | None = bob.measured(transmit(*photons, bob.bases, QuantumChannel(), born_rule, source))
    while message is not None:
        message = bob.handle(alice.handle(ask_twice("bob", message)))
    assert alice.outcome is not None and bob.outcome is not None
    assert alice.outcome.secret is not None and alice.outcome.secret == bob.outcome.secret


def test_nothing_is_no_repetition_of_nothing() -> None:
    alice = Alice(QkdConfig(), CRYPTO, LEADER.member, random.Random(5).randbytes)
    assert kind_of(alice.handle(b"")) is Kind.ABORT
    assert alice.outcome is not None


def test_alice_tells_no_more_than_the_bound_allows() -> None:
    source = random.Random(5).randbytes
    alice = Alice(QkdConfig(), CRYPTO, LEADER.member, source)
    bob = Bob(QkdConfig(), LEADER, CRYPTO.member, source)
    photons = bob.photons(alice.handle(bob.hello()))
    assert photons is not None
    first = bob.handle(
        alice.handle(bob.measured(transmit(*photons, bob.bases, QuantumChannel(), born_rule, source)))
    )
    assert first is not None
    questions = ParityRequest.parse(first)
    greedy = ParityRequest(questions.session, 1, questions.queries[:1] * 4097).encode()
    assert kind_of(alice.handle(greedy)) is Kind.ABORT
    assert alice.outcome is not None and alice.outcome.secret is None


def test_answers_of_an_earlier_session_are_passed_over() -> None:
    """The crypto node stood still, Bob gave up and asks anew: what comes late is not what he asked for."""
    source = random.Random(8).randbytes
    config = QkdConfig()
    before, alice = (Alice(config, CRYPTO, LEADER.member, source) for _ in range(2))
    gone, bob = (Bob(config, LEADER, CRYPTO.member, source) for _ in range(2))
    late = [before.handle(gone.hello())]
    photons = gone.photons(late[0])
    assert photons is not None
    asked = gone.measured(transmit(*photons, gone.bases, QuantumChannel(), born_rule, source))
    late.append(before.handle(asked))  # what it needed
    late.append(before.handle(b"\x09"))  # and how it ended
    assert [kind_of(message) for message in late] == [Kind.PHOTONS, Kind.SIFTED, Kind.ABORT]
    first = alice.handle(bob.hello())
    for message in late:
        assert bob.photons(message) is None and bob.outcome is None
    photons = bob.photons(first)
    assert photons is not None
    following: bytes | None = bob.measured(transmit(*photons, bob.bases, QuantumChannel(), born_rule, source))
    while following is not None:
        for message in late:
            assert bob.handle(message) is None and bob.outcome is None
        following = bob.handle(alice.handle(following))
    assert alice.outcome is not None and bob.outcome is not None
    assert bob.outcome.secret is not None and bob.outcome.secret == alice.outcome.secret


@pytest.mark.parametrize(("number", "count"), [(1, 0), (2, 1), (0, 1)])
def test_questions_out_of_order_or_without_a_question_end_the_session(number: int, count: int) -> None:
    """Without a question there would be no end of rounds: only parities are counted."""
    source = random.Random(5).randbytes
    alice = Alice(QkdConfig(), CRYPTO, LEADER.member, source)
    bob = Bob(QkdConfig(), LEADER, CRYPTO.member, source)
    photons = bob.photons(alice.handle(bob.hello()))
    assert photons is not None
    first = bob.handle(
        alice.handle(bob.measured(transmit(*photons, bob.bases, QuantumChannel(), born_rule, source)))
    )
    assert first is not None
    questions = ParityRequest.parse(first)
    bad = ParityRequest(questions.session, number, questions.queries[:count]).encode()
    assert kind_of(alice.handle(bad)) is Kind.ABORT
    assert alice.outcome is not None and alice.outcome.reason is AbortReason.PROTOCOL


@settings(max_examples=40)
@given(st.binary(max_size=200), st.sampled_from(list(Kind)), st.integers(0, 3), st.booleans())
def test_junk_ends_its_session_and_raises_nothing(junk: bytes, kind: Kind, steps: int, mine: bool) -> None:
    source = random.Random(6).randbytes
    config = QkdConfig(photons=1024)
    alice = Alice(config, CRYPTO, LEADER.member, source)
    bob = Bob(config, LEADER, CRYPTO.member, source)
    reply = alice.handle(bob.hello()) if steps else b""
    if steps > 1:
        photons = bob.photons(reply)
        assert photons is not None
        message: bytes | None = bob.measured(born_rule(Run(*photons, bob.bases, np.zeros(1024, np.uint8), 1)))
        assert message is not None
        reply = alice.handle(message)
        if steps > 2:
            answer = bob.handle(bytes([kind]) + (bob._session if mine else b"") + junk)
            assert answer is None or kind_of(answer) is Kind.ABORT
            assert bob.outcome is None or bob.outcome.secret is None
            assert (bob.outcome is not None) == mine or kind is Kind.ABORT
    assert kind_of(alice.handle(bytes([kind]) + junk)) in (Kind.ABORT, Kind.PHOTONS)
    assert alice.outcome is None or alice.outcome.secret is None


def test_a_run_of_photons_survives_the_wire() -> None:
    rng = np.random.default_rng(7)
    parts = [rng.integers(0, 2, 1001, dtype=np.uint8) for _ in range(4)]
    run = decode_run(encode_run(Run(*parts, seed=2**61)))
    assert run.seed == 2**61
    for before, after in zip(parts, (run.bits, run.prepared, run.measured, run.flipped), strict=True):
        assert np.array_equal(before, after)
    for bad in (b"", bytes(12), encode_run(run)[:-1], encode_run(run) + b"x"):
        with pytest.raises(ValueError):
            decode_run(bad)


def test_aer_measures_as_quantum_mechanics_says() -> None:
    pytest.importorskip(
        "qiskit_aer", reason="Aer is not installed: the circuits of QRNG and BB84 go untested"
    )
    from chimera_ros.quantum import entropy_jobs
    from chimera_ros.quantum.jobs import JobRefused

    def aer(run: Run) -> np.ndarray:
        return unpack(entropy_jobs.bb84(encode_run(run)))[: len(run.bits)]

    rng = np.random.default_rng(9)
    run = Run(*(rng.integers(0, 2, 8000, dtype=np.uint8) for _ in range(4)), seed=11)
    found = aer(run)
    same = run.prepared == run.measured
    assert np.array_equal(found[same], (run.bits ^ run.flipped)[same])
    assert HealthTest(NoiseSource(1, 1.0)).feed(found[~same]) is None
    assert np.array_equal(found, aer(run))  # a seeded simulator: no entropy of its own

    alice, bob = run_session(QuantumChannel(0.01), simulator=aer)
    assert alice.outcome is not None and bob.outcome is not None
    assert alice.outcome.secret is not None and alice.outcome.secret == bob.outcome.secret
    alice, _ = run_session(QuantumChannel(0.01, intercepted=1.0), simulator=aer)
    assert alice.outcome is not None and alice.outcome.reason is AbortReason.ERRORS

    raw = entropy_jobs.qrng(entropy_jobs.QRNG_REQUEST.pack(int.from_bytes(os.urandom(7)), 1024, 8))
    assert len(raw) == 1024
    assert HealthTest(NoiseSource(1, 1.0, alpha_log2=-40)).feed(unpack(raw)) is None
    for bad in (b"", entropy_jobs.QRNG_REQUEST.pack(1, 0, 8), entropy_jobs.QRNG_REQUEST.pack(1, 1, 40)):
        with pytest.raises(JobRefused):
            entropy_jobs.qrng(bad)
    with pytest.raises(JobRefused):
        entropy_jobs.bb84(b"")
