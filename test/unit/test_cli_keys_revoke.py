"""`chimera keys revoke`, `renew` and `policy`: what they write, and every refusal in one sentence."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from chimera_ros.cli import main
from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.watch import KeystoreWatch


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "keys"
    assert main(["keys", "create", str(path), "--no-passphrase"]) == 0
    for name in ("drone_01", "drone_02"):
        assert main(["keys", "enroll", name, "drone", "--keystore", str(path)]) == 0
    capsys.readouterr()
    return path


def keys(capsys: pytest.CaptureFixture[str], store: Path, *argv: str) -> dict[str, object]:
    assert main(["keys", *argv, "--keystore", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_revoke_raises_the_number_and_keeps_what_was_revoked(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys(capsys, store, "revoke", "drone_01") == {"name": "drone_01", "revoked": 1, "crl_number": 2}
    assert keys(capsys, store, "revoke", "drone_02", "--reason", "superseded")["crl_number"] == 3
    assert keys(capsys, store, "revoke", "--refresh") == {"name": None, "revoked": 0, "crl_number": 4}
    crl = Keystore(store).load_trust(wall_ns=time.time_ns()).crl
    assert (crl.number, len(crl.serials)) == (4, 2)
    assert keys(capsys, store, "show", "drone_01")["state"] == "revoked"
    with pytest.raises(KeystoreError, match="has been revoked"):
        Keystore(store).load_identity("drone_01", wall_ns=time.time_ns())


def test_renew_makes_a_new_pair_and_old_ones_can_be_revoked(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = keys(capsys, store, "show", "drone_01")
    keys(capsys, store, "revoke", "drone_01")
    after = keys(capsys, store, "renew", "drone_01")
    assert after["state"] == "ok"
    assert (after["name"], after["role"]) == (before["name"], before["role"])
    assert after["fingerprint"] != before["fingerprint"]
    assert (
        Keystore(store).load_identity("drone_01", wall_ns=time.time_ns()).fingerprint.hex()
        == (after["fingerprint"])
    )
    keys(capsys, store, "renew", "drone_01")
    assert keys(capsys, store, "revoke", "drone_01", "--old")["revoked"] == 1, "the first is revoked already"
    assert keys(capsys, store, "show", "drone_01")["state"] == "ok"
    assert keys(capsys, store, "revoke", "drone_01")["revoked"] == 1


def test_an_interrupted_renewal_is_finished_by_the_next_load(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chimera_ros.crypto.keystore.authority.replace_durably", crash)
    assert main(["keys", "renew", "drone_01", "--keystore", str(store)]) != 0
    folder = store / "members" / "drone_01"
    assert (folder / "identity.key.new").exists()
    assert Keystore(store).load_identity("drone_01", wall_ns=time.time_ns()).name == "drone_01"
    assert not (folder / "identity.key.new").exists()
    assert (folder / "identity.key").stat().st_mode & 0o777 == 0o600


def test_a_renewal_that_stops_before_the_certificate_changes_nothing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store / "members" / "drone_01"
    other = store / "members" / "drone_02" / "identity.key"
    (folder / "identity.key.new").write_bytes(other.read_bytes())
    (folder / "identity.key.new").chmod(0o600)
    assert Keystore(store).load_identity("drone_01", wall_ns=time.time_ns()).name == "drone_01"


def test_a_newer_policy_is_signed(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (store / "policy.yaml").read_text()
    newer = tmp_path / "newer.yaml"
    text = text.replace("version: 1\n", "version: 2\n")
    newer.write_text(text.replace("rotation_s: 60.0", "rotation_s: 30.0"))
    assert keys(capsys, store, "policy", str(newer))["policy_version"] == 2
    policy = Keystore(store).load_trust(wall_ns=time.time_ns()).policy
    assert (policy.version, policy.limits.rotation_s) == (2, 30.0)


def test_refusals(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    def refused(status: int, words: str, *argv: str) -> None:
        assert main(["keys", *argv, "--keystore", str(store)]) == status
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    refused(2, "name one member to revoke", "revoke")
    refused(2, "name one member to revoke", "revoke", "drone_01", "--refresh")
    refused(1, "drone_09 is not enrolled", "revoke", "drone_09")
    refused(1, "drone_09 is not enrolled", "renew", "drone_09")
    refused(1, "was never renewed", "revoke", "drone_01", "--old")
    keys(capsys, store, "revoke", "drone_01")
    refused(1, "is revoked already", "revoke", "drone_01")
    same = tmp_path / "same.yaml"
    same.write_text((store / "policy.yaml").read_text())
    refused(1, "must be higher than 1", "policy", str(same))
    refused(2, "cannot read the policy", "policy", str(tmp_path / "none.yaml"))
    before = (store / "crl.pem").read_bytes()
    (store / "authority.key").unlink()
    refused(1, "authority.key is missing", "revoke", "drone_02")
    assert (store / "crl.pem").read_bytes() == before


def test_the_watch_sees_what_was_replaced_and_another_authority(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = KeystoreWatch(store, Keystore(store).load_trust(wall_ns=time.time_ns()))
    assert watch.poll() is None
    keys(capsys, store, "revoke", "drone_01")
    assert watch.poll() is None, "it may still be at work"
    files = watch.poll()
    assert files is not None
    assert files.policy_text == (store / "policy.yaml").read_bytes()
    assert watch.poll() is None
    crl = (store / "crl.pem").read_bytes()
    (store / "crl.pem").unlink()
    watch.poll()
    with pytest.raises(KeystoreError, match=r"crl\.pem: cannot read"):
        watch.poll()
    assert watch.poll() is None, "told once"
    (store / "crl.pem").write_bytes(crl)
    other = tmp_path / "other"
    assert main(["keys", "create", str(other), "--no-passphrase"]) == 0
    (store / "authority.pem").write_bytes((other / "authority.pem").read_bytes())
    watch.poll()
    with pytest.raises(KeystoreError, match="keystore of another authority"):
        watch.poll()
