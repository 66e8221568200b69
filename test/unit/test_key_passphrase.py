"""Passphrases of member keys: from a file, a credential of systemd or the terminal, never from elsewhere."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chimera_ros import cli, key_passphrase
from chimera_ros.commands.command import operator_passphrase
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.start_checks import keystore_reasons
from chimera_ros.commands.swarm_setup import ask_key_passphrase, ensure_keystore
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.key_passphrase import CREDENTIAL, CREDENTIALS_DIRECTORY, PassphraseError, find, read_file
from chimera_ros.launcher.spec import SwarmSpec, processes

SECRET = b"correct horse"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    path.write_bytes(SECRET + b"\nsecond line\n")
    return path


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> SwarmSpec:
    """A swarm of one drone whose keys are all encrypted."""
    import time

    keys = tmp_path_factory.mktemp("encrypted") / "keys"
    made = SwarmSpec(drones=1, mission=Path("mission.yaml"), keystore=keys, standbys=0)
    store = Keystore(keys, durable=False)
    store.create("chimera", wall_ns=time.time_ns())
    for name, role in made.members():
        store.enroll(name, role, wall_ns=time.time_ns(), key_passphrase=SECRET)
    return made


def test_a_file_gives_its_first_line(file: Path) -> None:
    assert read_file(file) == SECRET
    assert find(str(file), {}) == SECRET
    assert find("", {}) is None


def test_a_credential_of_systemd_is_found(tmp_path: Path, file: Path) -> None:
    environ = {CREDENTIALS_DIRECTORY: str(tmp_path)}
    assert find("", environ) is None
    file.rename(tmp_path / CREDENTIAL)
    (tmp_path / CREDENTIAL).chmod(0o440)  # as systemd shows a file with an access control list
    assert find("", environ) == SECRET
    (tmp_path / CREDENTIAL).chmod(0o444)
    with pytest.raises(PassphraseError, match="can be read by others"):
        find("", environ)


@pytest.mark.parametrize("kind", ["readable", "empty", "missing", "folder", "pipe", "large", "binary"])
def test_other_files_are_refused_in_one_sentence(kind: str, file: Path) -> None:
    if kind == "readable":
        file.chmod(0o640)
    elif kind == "empty":
        file.write_bytes(b"\nx")
    elif kind == "large":
        file.write_bytes(b"x" * 70_000)
    elif kind == "binary":
        file.write_bytes(b"\x00\x01")
    else:
        file.unlink()
        if kind != "missing":
            (file.mkdir if kind == "folder" else lambda: os.mkfifo(file, 0o600))()
    with pytest.raises(PassphraseError, match=str(file)):
        read_file(file)


def test_a_swarm_with_encrypted_keys_starts_with_the_passphrase(spec: SwarmSpec, file: Path) -> None:
    reasons = keystore_reasons(spec)
    assert any("is encrypted; give its passphrase" in reason for reason in reasons)
    with_file = replace(spec, key_passphrase_file=str(file))
    assert keystore_reasons(with_file) == []
    ensure_keystore(with_file, simulated=False)
    file.write_bytes(b"wrong\n")
    assert any("the passphrase is wrong" in reason for reason in keystore_reasons(with_file))


def test_nodes_get_the_file_and_never_the_passphrase(spec: SwarmSpec) -> None:
    path = key_passphrase.as_inherited_file(SECRET)
    (handle,) = key_passphrase.inherited(path)
    try:
        for process in processes(replace(spec, key_passphrase_file=str(path))):
            assert process.parameters["key_passphrase_file"] == str(path)
            words = " ".join((*process.argv(), *process.environment.values()))
            assert SECRET.decode() not in words
        assert read_file(path) == read_file(path) == SECRET, "a restarted node reads it again"
        code = f"from chimera_ros.key_passphrase import find; print(find({str(path)!r}))"
        child = subprocess.run(
            [sys.executable, "-c", code], pass_fds=(handle,), capture_output=True, text=True, check=True
        )
        assert child.stdout.strip() == repr(SECRET)
    finally:
        os.close(handle)


def test_the_terminal_is_asked_only_if_need_be(
    spec: SwarmSpec, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CREDENTIALS_DIRECTORY, raising=False)
    arguments = argparse.Namespace(
        keystore=spec.keystore, key_passphrase_file=None, operator="operator_0", namespace="/chimera"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for ask in (ask_key_passphrase, operator_passphrase):
        with pytest.raises(CommandFailed, match="this is no terminal") as refused:
            ask(arguments)
        assert refused.value.status == 2
    monkeypatch.setattr(key_passphrase, "ask", lambda prompt: SECRET)
    assert operator_passphrase(arguments) == SECRET
    ask_key_passphrase(arguments)
    assert find(arguments.key_passphrase_file) == SECRET
    os.close(*key_passphrase.inherited(arguments.key_passphrase_file))
    arguments.key_passphrase_file = file
    monkeypatch.setattr(key_passphrase, "ask", lambda prompt: pytest.fail("asked although a file is given"))
    ask_key_passphrase(arguments)
    assert operator_passphrase(arguments) == SECRET


def test_a_member_is_enrolled_with_an_encrypted_key(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    assert cli.main(["keys", "create", str(keys), "--no-passphrase"]) == 0
    enroll = ["keys", "enroll", "drone_01", "drone", "--keystore", str(keys)]
    assert cli.main([*enroll, "--key-passphrase-file", str(file)]) == 0
    capsys.readouterr()
    assert Keystore(keys).show("drone_01").key_encrypted
