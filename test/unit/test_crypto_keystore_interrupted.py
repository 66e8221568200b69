"""Commands of the authority, ended in the middle: the keystore is the old one or the new one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.keystore import authority
from chimera_ros.crypto.keystore.authority import AuthorityKeystore
from chimera_ros.crypto.testing.swarm import WALL_START_NS
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.trust.roles import Role

WALL = WALL_START_NS


@pytest.fixture
def store(tmp_path: Path) -> AuthorityKeystore:
    made = AuthorityKeystore(tmp_path / "keys", durable=False)
    made.create("testswarm", wall_ns=WALL)
    made.enroll("drone_01", Role.DRONE, wall_ns=WALL)
    return made


def interrupted(store: AuthorityKeystore, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C after so many writes."""
    left = [after]

    def step() -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1

    write, replace = store._write, authority.replace_durably
    monkeypatch.setattr(store, "_write", lambda *args: (step(), write(*args)))
    monkeypatch.setattr(authority, "replace_durably", lambda *args: (step(), replace(*args)))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_new_policy(store: AuthorityKeystore, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    text = default_policy.TEXT.replace("version: 1\n", "version: 2\n")
    with monkeypatch.context() as patch:
        interrupted(store, patch, after)
        with pytest.raises(KeyboardInterrupt):
            store.install_policy(text, wall_ns=WALL)
    trust = store.load_trust(wall_ns=WALL)
    assert trust.policy.version == (1 if after < 2 else 2)
    again = text.replace("version: 2\n", "version: 3\n")
    assert store.install_policy(again, wall_ns=WALL) == 3
    assert store.load_trust(wall_ns=WALL).policy.version == 3


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_renewal_under_a_new_passphrase(
    store: AuthorityKeystore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = store.load_identity("drone_01", wall_ns=WALL).fingerprint
    with monkeypatch.context() as patch:
        interrupted(store, patch, after)
        with pytest.raises(KeyboardInterrupt):
            store.renew("drone_01", wall_ns=WALL, key_passphrase=b"secret")
    passphrase = b"secret" if after == 3 else None
    found = store.load_identity("drone_01", wall_ns=WALL, passphrase=passphrase)
    assert (found.fingerprint == before) == (after < 3)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_policy_after_one_that_was_interrupted(
    store: AuthorityKeystore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    texts = [default_policy.TEXT.replace("version: 1\n", f"version: {number}\n") for number in (2, 3)]
    with monkeypatch.context() as patch:
        interrupted(store, patch, 2)
        with pytest.raises(KeyboardInterrupt):
            store.install_policy(texts[0], wall_ns=WALL)
    with monkeypatch.context() as patch:
        interrupted(store, patch, 1 + after)  # the first finishes what was begun
        with pytest.raises(KeyboardInterrupt):
            store.install_policy(texts[1], wall_ns=WALL)
    assert store.load_trust(wall_ns=WALL).policy.version == (2 if after < 2 else 3)


def test_a_renewal_after_one_that_was_interrupted(
    store: AuthorityKeystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with monkeypatch.context() as patch:
            interrupted(store, patch, 2)
            with pytest.raises(KeyboardInterrupt):
                store.renew("drone_01", wall_ns=WALL)
        assert store.load_identity("drone_01", wall_ns=WALL).name == "drone_01"
        with monkeypatch.context() as patch:
            interrupted(store, patch, 3)  # before the key follows its certificate
            with pytest.raises(KeyboardInterrupt):
                store.renew("drone_01", wall_ns=WALL)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5])
def test_a_keystore_and_a_member_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    made = AuthorityKeystore(tmp_path / "other", durable=False)
    with monkeypatch.context() as patch:
        interrupted(made, patch, after)
        if after < 5:  # the fallback secret is written past `_write`
            with pytest.raises(KeyboardInterrupt):
                made.create("testswarm", wall_ns=WALL)
        else:
            made.create("testswarm", wall_ns=WALL)
    assert made.exists() == (after == 5)
    again = AuthorityKeystore(tmp_path / "other", durable=False)
    if after < 5:
        again.create("testswarm", wall_ns=WALL)
    for writes in (0, 1):
        with monkeypatch.context() as patch:
            interrupted(again, patch, writes)
            with pytest.raises(KeyboardInterrupt):
                again.enroll("drone_01", Role.DRONE, wall_ns=WALL)
        assert again.list() == []
    again.enroll("drone_01", Role.DRONE, wall_ns=WALL)
    assert again.load_identity("drone_01", wall_ns=WALL).name == "drone_01"


def test_of_two_revocations_at_once_none_is_lost(
    store: AuthorityKeystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("drone_02", "drone_03"):
        store.enroll(name, Role.DRONE, wall_ns=WALL)
    other = AuthorityKeystore(store.path, durable=False)
    second = threading.Thread(target=lambda: other.revoke("drone_03", wall_ns=WALL))
    write = store._write

    def slow(*args: object) -> None:
        second.start()
        second.join(0.2)  # it waits, or would have come in between
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_write", slow)
    assert store.revoke("drone_02", wall_ns=WALL)[0] == 2
    second.join()
    crl = store.load_trust(wall_ns=WALL).crl
    assert (crl.number, len(crl.serials)) == (3, 2)


def test_the_key_of_another_authority_signs_nothing(store: AuthorityKeystore, tmp_path: Path) -> None:
    AuthorityKeystore(tmp_path / "other", durable=False).create("testswarm", wall_ns=WALL)
    path = store.path / "authority.key"
    path.write_bytes((tmp_path / "other" / "authority.key").read_bytes())
    before = (store.path / "crl.pem").read_bytes()
    fresh = AuthorityKeystore(store.path, durable=False)
    with pytest.raises(KeystoreError, match=r"does not fit authority\.pem"):
        fresh.revoke("drone_01", wall_ns=WALL)
    with pytest.raises(KeystoreError, match=r"does not fit authority\.pem"):
        fresh.enroll("drone_02", Role.DRONE, wall_ns=WALL)
    assert (store.path / "crl.pem").read_bytes() == before
    assert not (store.path / "members" / "drone_02").exists()


def test_a_lost_authority_is_not_replaced_by_a_new_one(store: AuthorityKeystore) -> None:
    (store.path / "authority.pem").rename(store.path / "elsewhere.pem")
    key = (store.path / "authority.key").read_bytes()
    with pytest.raises(KeystoreError, match="holds members but no authority"):
        AuthorityKeystore(store.path, durable=False).create("testswarm", wall_ns=WALL)
    assert (store.path / "authority.key").read_bytes() == key


@pytest.mark.parametrize(("others", "mode"), [(True, 0o755), (False, 0o700)])
def test_a_folder_that_others_use_is_not_closed_to_them(tmp_path: Path, others: bool, mode: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    if others:
        (folder / "something").touch()
    AuthorityKeystore(folder, durable=False).create("testswarm", wall_ns=WALL)
    assert folder.stat().st_mode & 0o777 == mode
    assert (folder / "members").stat().st_mode & 0o777 == 0o700
    for name in ("authority.key", "fallback.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
