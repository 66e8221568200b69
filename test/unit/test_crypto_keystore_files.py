"""Files and folders of a keystore that another user could have changed, or that are not what they seem."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.keystore.authority import AuthorityKeystore
from chimera_ros.crypto.keystore.member_state import StoredState

WALL = 1_800_000_000_000_000_000
DAY_NS = 86_400_000_000_000
OTHER_USER = 65534
MEMBER = "members/drone_01"
TRUST_FILES = ("authority.pem", "crl.pem", "policy.yaml", "policy.sig")
ALL_FILES = (*TRUST_FILES, f"{MEMBER}/identity.pem", f"{MEMBER}/identity.key")
FOLDERS = (".", "members", MEMBER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "keys"
    store = AuthorityKeystore(path, durable=False)
    store.create("alpha", wall_ns=WALL)
    store.enroll("drone_01", "drone", wall_ns=WALL)
    return path


@pytest.fixture
def keys(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "keys"))


def load(keys: Path) -> None:
    AuthorityKeystore(keys, durable=False).load_identity("drone_01", wall_ns=WALL)


@pytest.mark.parametrize("name", [*ALL_FILES, *FOLDERS])
def test_what_every_user_can_change_is_refused(keys: Path, name: str) -> None:
    path = keys / name
    path.chmod(path.stat().st_mode | 0o002)
    words = "can be read by others|can be changed by every user"
    with pytest.raises(KeystoreError, match=words):
        load(keys)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", [*ALL_FILES, *FOLDERS])
def test_what_belongs_to_another_user_is_refused(keys: Path, name: str) -> None:
    os.chown(keys / name, OTHER_USER, -1)
    with pytest.raises(KeystoreError, match=f"it belongs to user {OTHER_USER}"):
        load(keys)


@pytest.mark.parametrize("name", ALL_FILES)
def test_links_are_not_followed(keys: Path, name: str) -> None:
    path = keys / name
    path.rename(keys / "elsewhere")
    path.symlink_to(keys / "elsewhere")
    with pytest.raises(KeystoreError, match=f"{path} is a symbolic link to .*elsewhere"):
        load(keys)


def test_the_fallback_secret_is_not_read_through_a_link(keys: Path) -> None:
    (keys / "fallback.key").rename(keys / "elsewhere")
    (keys / "fallback.key").symlink_to("elsewhere")
    with pytest.raises(KeystoreError, match="symbolic link"):
        AuthorityKeystore(keys).fallback()


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic": lambda link, target: link.symlink_to(target),
    "hard": lambda link, target: link.hardlink_to(target),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("file", ["state.json", "state.json.number", "state.json.epoch", "in_use.lock"])
def test_a_link_in_place_of_state_leaves_its_target_whole(
    keys: Path, tmp_path: Path, kind: str, file: str
) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"x" * 500)
    target.chmod(0o600)
    keystore = AuthorityKeystore(keys, durable=False)
    store = keystore.state_store("drone_01")
    first = StoredState(highest_epoch=1)
    store.save(first)
    path = keys / MEMBER / file
    path.unlink(missing_ok=True)
    LINKS[kind](path, target)
    for action in (
        lambda: store.save(replace(first, highest_epoch=2)),
        lambda: store.save(replace(first, highest_epoch=2, evictions=frozenset({bytes(32)}))),
        lambda: store.save(replace(first, highest_epoch=3, policy_version=2)),
        lambda: keystore.lock("drone_01").release(),
    ):
        with contextlib.suppress(KeystoreError):
            action()
    assert target.read_bytes() == b"x" * 500


def test_numbers_behind_a_link_are_refused(keys: Path, tmp_path: Path) -> None:
    store = AuthorityKeystore(keys, durable=False).state_store("drone_01")
    first = StoredState(highest_epoch=1)
    store.save(first)
    (keys / MEMBER / "state.json.number").symlink_to(tmp_path / "new")
    with pytest.raises(KeystoreError, match="symbolic link"):
        store.save(replace(first, highest_epoch=2))
    assert not (tmp_path / "new").exists()


def test_enrolment_takes_the_swarm_from_the_signed_policy_only(keys: Path) -> None:
    path = keys / "policy.yaml"
    path.write_text(path.read_text().replace("swarm: alpha", "swarm: beta"))
    store = AuthorityKeystore(keys, durable=False)
    with pytest.raises(KeystoreError, match="was changed after it was signed"):
        store.enroll("drone_02", "drone", wall_ns=WALL)
    assert not (keys / "members/drone_02/identity.pem").exists()


def test_the_dates_of_the_authority_are_checked(keys: Path) -> None:
    store = AuthorityKeystore(keys, durable=False)
    text = (keys / "policy.yaml").read_text()
    body = "\n".join(
        line for line in text.splitlines() if not line.startswith(("swarm:", "issued:", "expires:"))
    ).replace("version: 1", "version: 2", 1)
    store.install_policy(body, wall_ns=WALL, days=4000)
    store.revoke(None, wall_ns=WALL, days=4000)
    store.renew("drone_01", wall_ns=WALL, days=4000)
    late = WALL + 1000 * DAY_NS  # everything else is still valid
    for action in (
        lambda: store.load_trust(wall_ns=late),
        lambda: store.enroll("drone_02", "drone", wall_ns=late),
        lambda: store.renew("drone_01", wall_ns=late),
        lambda: store.revoke("drone_01", wall_ns=late),
    ):
        with pytest.raises(KeystoreError, match="the authority's certificate expired on"):
            action()
