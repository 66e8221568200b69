"""What a start and `preflight` find about a swarm's identities, in one sentence, before anything is made."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chimera_ros.cli import main
from chimera_ros.commands import start_checks
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.start_checks import (
    DomainListener,
    check_identities,
    hold_keystore,
    keystore_reasons,
)
from chimera_ros.commands.swarm_setup import simulation_keystore
from chimera_ros.crypto.keystore.authority import AuthorityKeystore
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.member_state import StoredState
from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.control import Beat
from chimera_ros.crypto.trust.identity import MemberIdentity
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.launcher.spec import SwarmSpec
from chimera_ros.ros.live_members import LiveMembers


def spec(keystore: Path, drones: int = 2) -> SwarmSpec:
    return SwarmSpec(drones=drones, mission=Path("m.yaml"), keystore=keystore)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keystore = Keystore(tmp_path_factory.mktemp("whole") / "keys", durable=False)
    keystore.create("chimera", wall_ns=time.time_ns())
    for name, role in spec(keystore.path).members():
        keystore.enroll(name, role, wall_ns=time.time_ns())
    return keystore.path


@pytest.fixture
def keys(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "keys"))


class Silence(DomainListener):
    """Nobody is alive in the domain."""

    def __init__(self, spec: SwarmSpec) -> None:
        self._spec = spec

    def faults(self, command: str) -> list[str]:
        return []


def older_policy(keys: Path) -> None:
    Keystore(keys).state_store("drone_01").save(StoredState(policy_version=5))


def older_list(keys: Path) -> None:
    """The newer list that the member took over is cut short."""
    Keystore(keys).state_store("drone_01").save(StoredState(crl_number=3))
    (keys / "members" / "drone_01" / "crl.der").write_bytes(b"\x30\x82")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "certificate": (
        lambda keys: (keys / "members/drone_01/identity.pem").write_bytes(b""),
        "members/drone_01/identity.pem: the certificate is not an X.509 certificate",
    ),
    "key missing": (
        lambda keys: (keys / "members/leader_0/identity.key").unlink(),
        "leader_0/identity.key is missing; copy it here with mode 0600, or make new ones with "
        "`chimera keys renew leader_0",
    ),
    "key for all": (
        lambda keys: (keys / "members/crypto_1/identity.key").chmod(0o644),
        "can be read by others",
    ),
    "state": (
        lambda keys: (keys / "members/logger_0/state.json").write_bytes(b""),
        "logger_0/state.json: the state file is damaged",
    ),
    "numbers": (lambda keys: (keys / "members/drone_02/state.json.number").mkdir(), "is not a file"),
    "lock": (lambda keys: (keys / "members/drone_02/in_use.lock").mkdir(), "is not a file"),
    "older policy": (older_policy, "policy.yaml has version 1, but drone_01 has already seen 5"),
    "older list": (older_list, "crl.pem has number 1, but drone_01 has already seen 3"),
    "policy changed": (
        lambda keys: (keys / "policy.yaml").write_bytes((keys / "policy.yaml").read_bytes() + b"\n"),
        "policy.yaml was changed after it was signed",
    ),
    "list": (lambda keys: (keys / "crl.pem").write_bytes(b""), "crl.pem is no revocation list"),
    "signature": (lambda keys: (keys / "policy.sig").unlink(), "policy.sig is missing"),
    "folder for all": (lambda keys: (keys / "members").chmod(0o777), "run `chmod o-w"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_member_could_not_use_is_found(kind: str, keys: Path) -> None:
    assert keystore_reasons(spec(keys)) == []
    assert not list(keys.glob("members/*/in_use.lock")), "a check makes no file"
    make, words = FAULTS[kind]
    make(keys)
    (reason,) = keystore_reasons(spec(keys))
    assert words in reason
    with pytest.raises(CommandFailed) as caught:
        check_identities(spec(keys), Silence(spec(keys)))
    assert words in str(caught.value)
    assert caught.value.status == 1


def test_nothing_is_made_before_such_a_fault_is_found(
    keys: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (keys / "members/drone_02/state.json.number").mkdir()
    assert main(["swarm", "--drones=2", f"--keystore={keys}", "--first-port=29540", "--record=run"]) == 1
    error = capsys.readouterr().err
    assert "state.json.number is not a file; move it away" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_damaged_fallback_secret_is_found(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (keys / "fallback.key").write_bytes(b"")
    (reason,) = keystore_reasons(spec(keys))
    assert f"make a new one with `chimera keys fallback --keystore {keys}`" in reason
    assert main(["swarm", "--drones=2", f"--keystore={keys}", "--first-port=29540"]) == 1
    assert reason in capsys.readouterr().err


def test_a_document_taken_over_in_flight_is_as_good_as_a_newer_one(keys: Path, tmp_path: Path) -> None:
    """The keystore of a drone is older than what it has received since."""
    newer = AuthorityKeystore(Path(shutil.copytree(keys, tmp_path / "newer")), durable=False)
    newer.revoke(None, wall_ns=time.time_ns())
    trust = newer.load_trust(wall_ns=time.time_ns())
    store = Keystore(keys).state_store("drone_01")
    store.save(StoredState(crl_number=trust.crl.number))
    (reason,) = keystore_reasons(spec(keys))
    assert "install the newer revocation list" in reason
    store.save_document("crl.der", trust.crl_der)
    assert keystore_reasons(spec(keys)) == []


def test_members_of_other_swarms_in_a_keystore_do_not_matter(keys: Path) -> None:
    keystore = Keystore(keys)
    keystore.enroll("drone_03", "drone", wall_ns=time.time_ns())
    (keys / "members/drone_03/identity.pem").write_bytes(b"")
    assert keystore_reasons(spec(keys)) == []
    assert len(keystore_reasons(spec(keys, 3))) == 1


def test_members_that_are_missing_are_named(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(keys / "members" / "crypto_1")
    (reason,) = keystore_reasons(spec(keys))
    assert "crypto_1 is not enrolled in this keystore; use `chimera keys enroll crypto_1" in reason
    assert main(["swarm", "--drones=2", f"--keystore={keys}", "--first-port=29540"]) == 2
    assert "lacks 1 of the swarm's members (crypto_1)" in capsys.readouterr().err
    assert main(["preflight", "--drones=2", f"--keystore={keys}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["reasons"]["keys"] == [reason]


def test_an_identity_in_use_is_named_with_process_and_domain(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    keystore = Keystore(keys)
    with keystore.lock("operator_0"):
        check_identities(spec(keys), Silence(spec(keys)))
    with keystore.lock("drone_01"), keystore.lock("leader_0"):
        with pytest.raises(CommandFailed) as caught:
            check_identities(spec(keys), Silence(spec(keys)))
        assert len(keystore_reasons(spec(keys))) == 1
    sentence = str(caught.value)
    assert caught.value.status == 2
    assert "leader_0 is in use by this process itself on this machine" in sentence
    assert "So are 1 more of its members." in sentence
    assert "ROS domain 42, namespace /chimera" in sentence
    check_identities(spec(keys), Silence(spec(keys)))
    with hold_keystore(keys), pytest.raises(CommandFailed) as caught:
        hold_keystore(keys)
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no module named rclpy')", "no module named rclpy"),
        ('print(\'{"skipped": "ROS is not here"}\')', "ROS is not here"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit status -9"),
        ("print('[]')", "exit status 0"),
        ("import time; time.sleep(600)", "no answer within 0.5 s"),
    ],
)
def test_where_nobody_can_listen_the_start_goes_on_with_a_sentence(
    program: str,
    words: str,
    keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "program.py").write_text(program)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'program.py'}\n")
    script.chmod(0o755)
    monkeypatch.setattr(start_checks.sys, "executable", str(script))
    monkeypatch.setattr(start_checks, "LISTEN_LIMIT_S", 0.5 if "sleep" in program else 60.0)
    assert DomainListener(spec(keys)).faults("chimera swarm") == []
    error = capsys.readouterr().err
    assert error.startswith("chimera swarm: not checked whether this swarm is alive in ROS domain ")
    assert words in error
    assert error.count("\n") == 1
    monkeypatch.setattr(start_checks.sys, "executable", str(tmp_path / "none"))
    assert DomainListener(spec(keys)).faults("chimera swarm") == []
    assert "No such file" in capsys.readouterr().err


def test_nobody_listens_for_a_keystore_that_is_not_there_yet(tmp_path: Path) -> None:
    listener = DomainListener(spec(tmp_path / "none"))
    assert listener.faults("chimera swarm") == []
    check_identities(spec(tmp_path / "none"), listener)


def test_certificates_and_beats_from_the_network(keys: Path, tmp_path: Path) -> None:
    wall_ns = time.time_ns()
    keystore = AuthorityKeystore(keys, durable=False)
    ours = {name: keystore.load_identity(name, wall_ns=wall_ns) for name in ("drone_01", "drone_02")}
    foreign = Keystore(tmp_path / "foreign", durable=False)
    foreign.create("chimera", wall_ns=wall_ns)
    stranger = foreign.enroll("drone_01", "drone", wall_ns=wall_ns)
    revoked = keystore.load_identity("leader_0", wall_ns=wall_ns)
    keystore.revoke("leader_0", wall_ns=wall_ns)
    crypto = {name: keystore.load_identity(name, wall_ns=wall_ns) for name in ("crypto_0", "crypto_1")}
    known = [identity.member for identity in (*ours.values(), *crypto.values())]
    trust = keystore.load_trust(wall_ns=wall_ns)
    live = LiveMembers(trust, ("drone_01", "leader_0", "crypto_0"), wall_ns, known)

    def beat(issuer: MemberIdentity, signer: MemberIdentity, swarm: str = "chimera") -> ControlMessage:
        body = Beat(swarm, 4, bytes(32), issuer.fingerprint, 1, wall_ns, True).encode()
        return signed(ControlKind.BEAT, body, signer)

    for der in (
        b"",
        b"\x30\x82\xff\xff",
        os.urandom(9000),
        stranger.certificate_der,
        ours["drone_01"].certificate_der[:-1],
        revoked.certificate_der,
        ours["drone_02"].certificate_der,
    ):
        live.take(ControlMessage(ControlKind.CERTIFICATE, (der,)))
    for message in (
        ControlMessage(ControlKind.BEAT, (b"", b"")),
        ControlMessage(ControlKind.BEAT, (os.urandom(200), os.urandom(4627))),
        beat(crypto["crypto_0"], ours["drone_01"]),
        beat(ours["drone_01"], ours["drone_01"]),
        beat(stranger, stranger),
        beat(crypto["crypto_0"], crypto["crypto_0"], "beta"),
        beat(crypto["crypto_1"], crypto["crypto_1"]),
    ):
        live.take(message)
    assert live.found == set(), "of others, revoked, forged, or not looked for"
    live.take(ControlMessage(ControlKind.CERTIFICATE, (ours["drone_01"].certificate_der,)))
    assert live.found == {"drone_01"}
    live = LiveMembers(trust, ("crypto_0",), wall_ns, known)
    live.take(beat(crypto["crypto_0"], crypto["crypto_0"]))
    assert live.complete


def test_simulations_in_different_domains_and_namespaces_share_no_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for domain, namespace in (
        ("", "/chimera"),
        ("7", "/chimera"),
        ("71", "/chimera"),
        ("7", "/alpha/b"),
        ("", "/alpha"),
    ):
        monkeypatch.setenv("ROS_DOMAIN_ID", domain)
        found.append(simulation_keystore(namespace))
        assert found[-1].parent == Path(os.environ["CHIMERA_HOME"])
    assert len(set(found)) == len(found)
    assert found[1].name.endswith("_domain_7")
    for same in ("0", "00", "abc", "-1"):
        monkeypatch.setenv("ROS_DOMAIN_ID", same)
        assert simulation_keystore() == found[0]
    monkeypatch.delenv("ROS_DOMAIN_ID")
    assert simulation_keystore() == found[0]
