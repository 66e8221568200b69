"""The keystore on disk: made, read back checked, and every fault says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.member_state import FileStore, StoredState
from chimera_ros.crypto.testing.swarm import WALL_START_NS, MemoryKeystore
from chimera_ros.crypto.trust.identity import CertificateError, CertificateFault, Role

WALL = WALL_START_NS
DAY_NS = 86_400_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    made = Keystore(tmp_path / "keys")
    made.create("testswarm", wall_ns=WALL)
    made.enroll("drone_01", Role.DRONE, wall_ns=WALL)
    return made


def test_twenty_two_members(tmp_path: Path) -> None:
    """How long that takes is measured by `chimera bench secure`."""
    store = Keystore(tmp_path / "keys", durable=False)
    store.create("testswarm", wall_ns=WALL)
    members = {"crypto": "crypto", "leader": "leader"} | {
        f"drone_{index:02d}": "drone" for index in range(20)
    }
    for name, role in members.items():
        store.enroll(name, role, wall_ns=WALL)
    assert {info.name: info.role.value for info in store.list()} == members
    trust = store.load_trust(wall_ns=WALL)
    found = [store.load_identity(name, wall_ns=WALL, trust=trust) for name in members]
    assert (
        len({identity.fingerprint for identity in found}) == len({item.member.serial for item in found}) == 22
    )


def test_identity_comes_back(store: Keystore) -> None:
    identity = store.load_identity("drone_01", wall_ns=WALL)
    assert (identity.name, identity.role, identity.swarm) == ("drone_01", Role.DRONE, "testswarm")
    info = store.show("drone_01")
    assert info.fingerprint == identity.fingerprint
    assert info.has_key
    assert not info.revoked
    assert not info.expired(WALL)
    signature = identity.sign(b"message", b"context")
    assert identity.member.verify(signature, b"message", b"context")
    assert not identity.member.verify(signature, b"message", b"another context")
    trust = store.load_trust(wall_ns=WALL)
    assert trust.certify(identity.certificate_der, WALL) == identity.member
    assert "key" not in repr(identity)


def test_secrets_are_private_files(store: Keystore) -> None:
    for path in (store.path / "authority.key", store.path / "members/drone_01/identity.key"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_world_readable_key_is_refused_and_says_how_to_mend_it(store: Keystore) -> None:
    key = store.path / "members/drone_01/identity.key"
    key.chmod(0o644)
    with pytest.raises(
        KeystoreError, match=r"identity\.key can be read by others \(mode 0644\); run `chmod 600"
    ):
        store.load_identity("drone_01", wall_ns=WALL)


def test_missing_things_are_named(store: Keystore, tmp_path: Path) -> None:
    with pytest.raises(
        KeystoreError, match=r"drone_09 is not enrolled.*chimera keys enroll drone_09.*drone_01"
    ):
        store.load_identity("drone_09", wall_ns=WALL)
    (store.path / "members/drone_01/identity.key").unlink()
    with pytest.raises(KeystoreError, match=r"identity\.key is missing"):
        store.load_identity("drone_01", wall_ns=WALL)
    with pytest.raises(
        KeystoreError, match=r"authority\.pem is missing; make a keystore with `chimera keys create`"
    ):
        Keystore(tmp_path / "none").load_trust(wall_ns=WALL)


def test_expired_early_and_foreign_certificates(store: Keystore) -> None:
    with pytest.raises(
        KeystoreError, match=r"drone_01 has expired; renew it with `chimera keys renew`.*2031"
    ):
        store.load_identity("drone_01", wall_ns=WALL + 400 * DAY_NS)
    with pytest.raises(KeystoreError, match="belongs to swarm testswarm, not other"):
        store.load_identity("drone_01", wall_ns=WALL, swarm="other")
    # a clock that shows less than the policy's date is not believed, so the certificate is valid all the same
    store.load_identity("drone_01", wall_ns=0)
    with pytest.raises(KeystoreError, match=r"policy\.yaml expired"):
        store.load_trust(wall_ns=WALL + 900 * DAY_NS)


def test_changed_policy_and_mixed_keystores_are_refused(store: Keystore, tmp_path: Path) -> None:
    other = Keystore(tmp_path / "other")
    other.create("testswarm", wall_ns=WALL)
    other.enroll("drone_02", "drone", wall_ns=WALL)
    policy = store.path / "policy.yaml"
    original = policy.read_bytes()
    policy.write_bytes(original.replace(b"silence_s: 30.0", b"silence_s: 60.0"))
    with pytest.raises(KeystoreError, match="was changed after it was signed"):
        store.load_trust(wall_ns=WALL)
    policy.write_bytes(original)
    (store.path / "members/drone_02").mkdir()
    for name in ("identity.pem", "identity.key"):
        moved = store.path / "members/drone_02" / name
        moved.write_bytes((other.path / "members/drone_02" / name).read_bytes())
        moved.chmod(0o600)
    with pytest.raises(KeystoreError, match="was not issued by this keystore's authority"):
        store.load_identity("drone_02", wall_ns=WALL)
    (store.path / "crl.pem").write_bytes((other.path / "crl.pem").read_bytes())
    with pytest.raises(KeystoreError, match=r"crl\.pem was not signed"):
        store.load_trust(wall_ns=WALL)


def test_key_that_does_not_fit_is_refused(store: Keystore) -> None:
    store.enroll("drone_02", "drone", wall_ns=WALL)
    key = store.path / "members/drone_01/identity.key"
    key.write_bytes((store.path / "members/drone_02/identity.key").read_bytes())
    with pytest.raises(KeystoreError, match=r"does not fit identity\.pem"):
        store.load_identity("drone_01", wall_ns=WALL)


def test_bad_names_and_roles(store: Keystore) -> None:
    for name, role, complaint in [
        ("Drone", "drone", "no member name"),
        ("../x", "drone", "no member name"),
        ("a" * 49, "drone", "no member name"),
        ("crypto", "drone", "reserved for role crypto"),
        ("drone_02", "pilot", "'pilot' is no role; use one of crypto, leader"),
        ("drone_01", "drone", "already enrolled"),
    ]:
        with pytest.raises(KeystoreError, match=complaint):
            store.enroll(name, role, wall_ns=WALL)
    with pytest.raises(KeystoreError, match="already holds a keystore"):
        store.create("testswarm", wall_ns=WALL)
    with pytest.raises(KeystoreError, match="no swarm name"):
        Keystore(store.path / "sub").create("Bad Swarm", wall_ns=WALL)


def test_encrypted_authority_key(tmp_path: Path) -> None:
    store = Keystore(tmp_path / "keys")
    store.create("testswarm", wall_ns=WALL, passphrase=b"correct horse")
    assert b"ENCRYPTED" in (store.path / "authority.key").read_bytes()
    again = Keystore(store.path)
    with pytest.raises(KeystoreError, match=r"authority\.key is encrypted; give its passphrase"):
        again.enroll("drone_01", "drone", wall_ns=WALL)
    with pytest.raises(KeystoreError, match="the passphrase is wrong"):
        again.enroll("drone_01", "drone", wall_ns=WALL, passphrase=b"wrong")
    again.enroll("drone_01", "drone", wall_ns=WALL, passphrase=b"correct horse", key_passphrase=b"mine")
    assert store.show("drone_01").key_encrypted
    assert again.load_identity("drone_01", wall_ns=WALL, passphrase=b"mine").name == "drone_01"


def test_certificate_faults() -> None:
    keystore, other = MemoryKeystore(), MemoryKeystore(seed=1)
    good = keystore.enroll("drone_01", Role.DRONE)
    cases = {
        CertificateFault.ISSUER: (other.enroll("drone_01", Role.DRONE).certificate_der, WALL),
        CertificateFault.SWARM: (
            keystore.enroll("drone_01", Role.DRONE, swarm="other").certificate_der,
            WALL,
        ),
        CertificateFault.EXPIRED: (good.certificate_der, WALL + 301 * DAY_NS),
        CertificateFault.UNREADABLE: (good.certificate_der[:-1], WALL),
    }
    for fault, (der, wall_ns) in cases.items():
        with pytest.raises(CertificateError) as caught:
            keystore.trust.certify(der, wall_ns)
        assert caught.value.fault is fault


def test_evictions_outlive_the_process_at_once_and_a_power_cut_after_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store = FileStore(path)
    store.save(StoredState(highest_epoch=4))
    gone = frozenset({bytes(32)})
    store.save(StoredState(highest_epoch=8, evictions=gone))
    assert FileStore(path).load() == StoredState(highest_epoch=8, evictions=gone)
    assert "00" * 32 not in path.read_text(), "not forced yet"
    store.flush()
    assert "00" * 32 in path.read_text()
    (tmp_path / "state.json.epoch").unlink()  # a power cut took it
    assert FileStore(path).load().evictions == gone
