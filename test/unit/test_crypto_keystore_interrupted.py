"""Commands of the authority, ended in the middle: the keystore is the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from chimera_ros.crypto import default_policy, keystore_authority
from chimera_ros.crypto.keystore_authority import AuthorityKeystore
from chimera_ros.crypto.roles import Role
from chimera_ros.crypto.testing import WALL_START_NS

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

    write, replace = store._write, keystore_authority.replace_durably
    monkeypatch.setattr(store, "_write", lambda *args: (step(), write(*args)))
    monkeypatch.setattr(keystore_authority, "replace_durably", lambda *args: (step(), replace(*args)))


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
