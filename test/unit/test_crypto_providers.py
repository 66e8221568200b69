"""OpenSSL and liboqs: NIST's vectors, each other's output, the choice between them, and no download.

Tests of liboqs are skipped, and say so, where its library is not installed; `make check-liboqs` skips none.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

from chimera_ros.commands import doctor_checks
from chimera_ros.crypto.errors import ProviderError, Rejected
from chimera_ros.crypto.primitives import liboqs, providers
from chimera_ros.crypto.primitives.interfaces import Provider
from chimera_ros.crypto.primitives.suite import suite_named
from chimera_ros.crypto.testing.swarm import Swarm

VECTORS = Path(__file__).parents[1] / "vectors"
SIGNATURES = json.loads((VECTORS / "ml_dsa_87.json").read_text())
KEM = json.loads((VECTORS / "ml_kem_1024.json").read_text())
CONTEXT = b"CHIMERA-1 test"

unhex = bytes.fromhex


def _liboqs() -> Provider:
    """Skips where there is no liboqs, or an old one; one that computes wrongly fails: no skip hides it."""
    try:
        return providers.liboqs().provider
    except ProviderError as error:
        if "self test" in str(error) or os.environ.get("CHIMERA_TEST_LIBOQS") == "required":
            raise
        pytest.skip(f"liboqs is NOT tested: {error}; install it and set OQS_INSTALL_PATH")


@pytest.fixture
def oqs() -> Any:
    """The package `oqs`, imported only once its library has been found."""
    _liboqs()
    import oqs

    return oqs


@pytest.fixture(params=["openssl", "liboqs"])
def provider(request: pytest.FixtureRequest) -> Provider:
    return _liboqs() if request.param == "liboqs" else providers.openssl().provider


@pytest.fixture
def other(provider: Provider) -> Provider:
    """The provider that `provider` is not."""
    openssl = providers.openssl().provider
    return openssl if type(provider) is not type(openssl) else _liboqs()


# NIST's vectors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", SIGNATURES["key_generation"], ids=lambda v: v["seed"][:8])
def test_signature_keys_come_from_their_seeds(provider: Provider, vector: dict[str, str]) -> None:
    key = provider.signing_key(mldsa.MLDSA87PrivateKey.from_seed_bytes(unhex(vector["seed"])))
    assert key.public_bytes() == unhex(vector["pk"])


def test_liboqs_expands_seeds_to_nists_private_keys(oqs: Any) -> None:
    feed = liboqs._SeedFeed(oqs.native())
    for vector in SIGNATURES["key_generation"]:
        with oqs.Signature("ML-DSA-87") as signer:
            assert feed.generate(signer, unhex(vector["seed"])) == unhex(vector["pk"])
            assert signer.export_secret_key() == unhex(vector["sk"])


def test_verification(provider: Provider) -> None:
    for vector in SIGNATURES["verification"]:
        key = provider.verify_key(unhex(vector["pkey"]))
        good = key.verify(unhex(vector["sig"]), unhex(vector["msg"]), unhex(vector["ctx"]))
        assert good == vector["passes"], vector["reason"]


def test_a_signature_that_is_too_long_is_refused(provider: Provider) -> None:
    """Its challenge fits: only the bound on z, which forgeries rest on, tells it from a good one."""
    vector = json.loads((VECTORS / "ml_dsa_87_norm.json").read_text())
    key = provider.verify_key(unhex(vector["pkey"]))
    assert not key.verify(unhex(vector["sig"]), unhex(vector["msg"]), unhex(vector["ctx"]))


def test_nists_signatures_are_accepted(provider: Provider) -> None:
    for vector in SIGNATURES["signing"]:
        key = provider.verify_key(unhex(vector["pkey"]))
        assert key.verify(unhex(vector["sig"]), unhex(vector["msg"]), unhex(vector["ctx"]))


def test_liboqs_signs_as_nist_with_the_same_randomness(oqs: Any) -> None:
    feed = liboqs._SeedFeed(oqs.native())
    for vector in SIGNATURES["signing"]:
        with oqs.Signature("ML-DSA-87", unhex(vector["skey"])) as signer:
            # The feed is made for key generation; signing draws 32 bytes in just the same way.
            class Signing:
                def generate_keypair(self, signer: Any = signer, vector: dict[str, str] = vector) -> bytes:
                    return signer.sign_with_ctx_str(unhex(vector["msg"]), unhex(vector["ctx"]))

            assert feed.generate(Signing(), unhex(vector["rnd"])) == unhex(vector["sig"])


def test_kem_keys_come_from_their_seeds(oqs: Any) -> None:
    for vector in KEM["key_generation"]:
        seed = unhex(vector["d"]) + unhex(vector["z"])
        with oqs.KeyEncapsulation("ML-KEM-1024") as kem:
            assert kem.generate_keypair_seed(seed) == unhex(vector["ek"])
            assert kem.export_secret_key() == unhex(vector["dk"])


def test_openssls_kem_keys_come_from_their_seeds() -> None:
    for vector in KEM["key_generation"]:
        key = mlkem.MLKEM1024PrivateKey.from_seed_bytes(unhex(vector["d"]) + unhex(vector["z"]))
        assert key.public_key().public_bytes_raw() == unhex(vector["ek"])


def test_openssl_decapsulates_from_seeds() -> None:
    for vector in KEM["from_seeds"]["tests"]:
        key = mlkem.MLKEM1024PrivateKey.from_seed_bytes(unhex(vector["d"]) + unhex(vector["z"]))
        assert key.decapsulate(unhex(vector["ct"])) == unhex(vector["ss"])
        assert key.decapsulate(unhex(vector["ct_n"])) == unhex(vector["ss_n"]), "implicit rejection"


def test_liboqs_decapsulates(oqs: Any) -> None:
    for vector in KEM["from_seeds"]["tests"]:
        with oqs.KeyEncapsulation("ML-KEM-1024") as kem:
            kem.generate_keypair_seed(unhex(vector["d"]) + unhex(vector["z"]))
            assert kem.decap_secret(unhex(vector["ct"])) == unhex(vector["ss"])
            assert kem.decap_secret(unhex(vector["ct_n"])) == unhex(vector["ss_n"]), "implicit rejection"
    cases = [(KEM["decapsulation"]["dk"], test) for test in KEM["decapsulation"]["tests"]]
    cases += [(test["dk"], test) for test in KEM["encapsulation"]]
    for private, vector in cases:
        with oqs.KeyEncapsulation("ML-KEM-1024", unhex(private)) as kem:
            assert kem.decap_secret(unhex(vector["c"])) == unhex(vector["k"])


def test_liboqs_encapsulates_as_nist_with_the_same_randomness(oqs: Any) -> None:
    native = oqs.native()
    for vector in KEM["encapsulation"]:
        with oqs.KeyEncapsulation("ML-KEM-1024") as kem:
            ciphertext = ctypes.create_string_buffer(1568)
            shared = ctypes.create_string_buffer(32)
            status = native.OQS_KEM_encaps_derand(
                kem._kem, ciphertext, shared, unhex(vector["ek"]), unhex(vector["m"])
            )
        assert status == 0
        assert (ciphertext.raw, shared.raw) == (unhex(vector["c"]), unhex(vector["k"]))


# Each other's output -----------------------------------------------------------------------------------


def test_the_other_verifies_what_one_signs(provider: Provider, other: Provider) -> None:
    key = mldsa.MLDSA87PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    signature = provider.signing_key(key).sign(b"message", CONTEXT)
    verifier = other.verify_key(public)
    assert verifier.verify(signature, b"message", CONTEXT)
    assert not verifier.verify(signature, b"message", CONTEXT + b"!")
    assert not verifier.verify(signature, b"massage", CONTEXT)
    assert not verifier.verify(signature[:-1], b"message", CONTEXT)
    assert not verifier.verify(signature[:-1] + bytes([signature[-1] ^ 0x80]), b"message", CONTEXT)
    assert not verifier.verify(b"", b"message", CONTEXT)
    assert not verifier.verify(signature, b"", CONTEXT)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_other_opens_what_one_seals(provider: Provider, other: Provider, hybrid: bool) -> None:
    package = other.package_key(hybrid)
    sealed = provider.public_key(hybrid, package.public).seal(b"seed" * 16, b"info")
    assert package.open(sealed, b"info") == b"seed" * 16
    suite = suite_named("CHIMERA-1" if hybrid else "CHIMERA-1-CNSA")
    assert (len(package.public), len(sealed)) == (suite.package_public_bytes, suite.sealed_seed_bytes)
    spoilt = [sealed[:-1], b"", sealed[:1568], sealed[:-1] + bytes([sealed[-1] ^ 1])]
    spoilt.append(bytes([sealed[0] ^ 1]) + sealed[1:])
    for wrong, info in [(sealed, b"inf"), (sealed, b""), *((item, b"info") for item in spoilt)]:
        with pytest.raises(Rejected, match="seed"):
            package.open(wrong, info)


def test_no_key_is_refused_when_it_is_read(provider: Provider) -> None:
    with pytest.raises(Rejected):
        provider.public_key(False, b"\xff" * 1568)
    with pytest.raises(Rejected):
        provider.public_key(False, bytes(1567))
    with pytest.raises(ValueError):
        provider.verify_key(bytes(2591))


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_key_has_one_spelling(provider: Provider, hybrid: bool) -> None:
    public = provider.package_key(hybrid).public
    provider.public_key(hybrid, public)
    with pytest.raises(Rejected):
        provider.public_key(hybrid, public + b"!")
    with pytest.raises(Rejected):
        provider.public_key(hybrid, public[:-1])
    with pytest.raises(Rejected):
        provider.public_key(not hybrid, public)
    if hybrid:  # the point of P-384, compressed: another spelling of the same key
        point = public[1568:]
        with pytest.raises(Rejected):
            provider.public_key(True, public[:1568] + bytes([2 | point[-1] & 1]) + point[1:49])


@pytest.mark.parametrize("policy", ["CHIMERA-1", "CHIMERA-1-CNSA"])
def test_a_swarm_of_both_providers_joins(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members load their keys with one provider, the crypto node works with the other."""
    from chimera_ros.crypto.trust import default_policy

    fast = providers.Choice(_liboqs(), "liboqs", "")
    text = default_policy.TEXT.replace("suite: CHIMERA-1 ", f"suite: {policy} ")
    assert f"suite: {policy} " in text
    monkeypatch.setattr(providers, "_chosen", providers.openssl())
    swarm = Swarm(drones=3, shards=1, policy_text=text)
    monkeypatch.setattr(providers, "_chosen", fast)
    swarm.identities["drone_02"] = swarm.keystore.enroll("drone_02", swarm.identities["drone_02"].role)
    assert "liboqs" in type(swarm.identities["drone_02"].key).__module__
    assert "openssl" in type(swarm.identities["crypto"].key).__module__
    assert swarm.join() < 2.0


# The choice ----------------------------------------------------------------------------------------------


def test_without_its_library_nothing_is_imported_or_built(tmp_path: Path) -> None:
    """A process whose `git` and `cmake` tell on it: choosing leaves no trace of either."""
    trace = tmp_path / "trace"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("git", "cmake"):
        tool = tools / name
        tool.write_text(f"#!/bin/sh\necho {name} >> {trace}\nexit 1\n")
        tool.chmod(0o755)
    code = (
        "import ctypes.util, sys\n"
        "ctypes.util.find_library = lambda name: None\n"  # a machine that has no liboqs of its own
        "from chimera_ros.crypto.primitives import providers\n"
        "choice = providers.select()\n"
        "print(choice.name, '|', choice.reason, '|', 'oqs' in sys.modules)\n"
        "try: providers.find('liboqs')\n"
        "except providers.ProviderError as error: print(error)\n"
    )
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    env |= {"OQS_INSTALL_PATH": str(tmp_path / "nothing"), "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop(providers.VARIABLE, None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("openssl | ") and first.endswith(" | False")
    assert "no liboqs library was found" in second or "liboqs-python is not installed" in second
    assert not trace.exists()


def test_a_library_that_is_none_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "liboqs.so").write_text("not a library")
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert liboqs.find_library() is None


def test_auto_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise ProviderError("gone fishing")

    monkeypatch.setattr(liboqs, "load", absent)
    choice = providers.find("auto")
    assert (choice.name, choice.reason) == ("openssl", "gone fishing")
    with pytest.raises(ProviderError, match="gone fishing"):
        providers.find("liboqs")
    with pytest.raises(ProviderError, match="use auto, openssl or liboqs"):
        providers.find("wolfssl")


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_chosen", None)
    monkeypatch.setenv(providers.VARIABLE, "openssl")
    assert providers.current().name == "openssl"
    assert providers.current() is providers.current()
    row = doctor_checks._provider()
    assert (row.status, row.detail) == ("ok", "openssl (as configured)")
    monkeypatch.setenv(providers.VARIABLE, "wolfssl")
    with pytest.raises(ProviderError, match="wolfssl"):
        providers.select()
    assert doctor_checks._provider().status == "missing"


def test_auto_falls_back_where_the_package_is_another_or_its_library_breaks_halfway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Native:
        _name = "liboqs.so"

        def __getattr__(self, name: str) -> Any:
            if name == "OQS_randombytes_custom_algorithm":
                return lambda callback: None
            return lambda *_: 0

    def broken(name: str) -> Any:
        raise RuntimeError(f"{name} cannot be made")

    stranger = SimpleNamespace()
    halfway = SimpleNamespace(
        native=Native,
        oqs_version=lambda: "0.99.0",
        get_enabled_sig_mechanisms=lambda: ("ML-DSA-87",),
        get_enabled_kem_mechanisms=lambda: ("ML-KEM-1024",),
        Signature=broken,
        KeyEncapsulation=broken,
    )
    monkeypatch.setattr(liboqs, "find_library", lambda: "liboqs.so")
    monkeypatch.setattr(liboqs.importlib.util, "find_spec", lambda name: name)
    for module, why in ((stranger, "is not the liboqs-python"), (halfway, "failed its self test")):
        monkeypatch.setattr(liboqs, "_import", lambda module=module: module)
        choice = providers.find("auto")
        assert choice.name == "openssl" and why in choice.reason
        with pytest.raises(ProviderError, match=why):
            providers.find("liboqs")


def test_what_liboqs_refuses_to_open_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    package = _liboqs().package_key(False)

    def refuse(ciphertext: bytes) -> bytes:
        raise RuntimeError("Can not decapsulate secret")

    monkeypatch.setattr(package._kem, "decap_secret", refuse)  # type: ignore[attr-defined]
    with pytest.raises(Rejected, match="seed"):
        package.open(bytes(1700), b"info")


def test_auto_takes_liboqs_where_it_is() -> None:
    _liboqs()
    assert providers.find("auto").name == "liboqs"
    row = doctor_checks._provider()
    assert row.status == "ok" and row.detail.startswith("liboqs (liboqs 0.")


def test_a_provider_that_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _liboqs()
    monkeypatch.setattr(liboqs, "_KEY_LABEL", b"another label")
    with pytest.raises(ProviderError, match="failed its self test"):
        liboqs.load()


# The seed feed -------------------------------------------------------------------------------------------


def test_only_the_thread_that_makes_a_key_is_fed_its_seed(oqs: Any) -> None:
    feed = liboqs._SeedFeed(oqs.native())
    seed = bytes(range(32))
    drawn: dict[str, bytes] = {}

    def draw(name: str, size: int) -> None:
        buffer = ctypes.create_string_buffer(size)
        oqs.native().OQS_randombytes(buffer, ctypes.c_size_t(size))
        drawn[name] = buffer.raw

    class Drawing:
        def generate_keypair(self) -> bytes:
            thread = Thread(target=draw, args=("other thread", 32))
            thread.start()
            thread.join()
            draw("other size", 64)
            draw("own", 32)
            return b"public"

    assert feed.generate(Drawing(), seed) == b"public"
    assert drawn["own"] == seed
    assert drawn["other thread"] != seed and drawn["other thread"] != bytes(32)
    assert seed not in drawn["other size"]
    draw("afterwards", 32)
    assert drawn["afterwards"] not in (seed, bytes(32))


def test_a_key_generation_that_draws_otherwise_is_refused(oqs: Any) -> None:
    class Silent:
        def generate_keypair(self) -> bytes:
            return b"public"

    with pytest.raises(ProviderError, match="drew 0 seeds"):
        liboqs._SeedFeed(oqs.native()).generate(Silent(), bytes(32))


def test_private_keys_are_overwritten_when_their_object_goes(oqs: Any) -> None:
    provider = _liboqs()
    signing = provider.signing_key(mldsa.MLDSA87PrivateKey.generate())
    package = provider.package_key(False)
    buffers = [signing._signer.secret_key, package._kem.secret_key]  # type: ignore[attr-defined]
    assert all(any(buffer.raw) for buffer in buffers)
    del signing, package
    assert not any(any(buffer.raw) for buffer in buffers)
