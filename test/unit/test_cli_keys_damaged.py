"""One damaged entry of a keystore is named with the way out; every command works on the others."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import mldsa, rsa

from chimera_ros.cli import main
from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.keystore.authority import AuthorityKeystore
from chimera_ros.crypto.keystore.watch import KeystoreWatch
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.trust.certificates import make_authority, make_member
from chimera_ros.crypto.trust.roles import Role

MEMBERS = (("crypto_0", "crypto"), ("drone_01", "drone"), ("drone_02", "drone"), ("operator_0", "operator"))
BAD = "drone_01"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore, a second one of the same swarm beside it, and in each a member that was renewed."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("keys", "other"):
        store = AuthorityKeystore(folder / name, durable=False)
        store.create("chimera", wall_ns=time.time_ns())
        for member, role in MEMBERS:
            store.enroll(member, role, wall_ns=time.time_ns())
        store.renew(BAD, wall_ns=time.time_ns())
    return folder


@pytest.fixture
def keys(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "keys", tmp_path / "keys", symlinks=True))


def swarm_certificate(path: Path, swarm: str, name: str) -> None:
    """A certificate of this keystore's authority for a member of another swarm, or of another name."""
    store = AuthorityKeystore(path, durable=False)
    store.unlock()
    key = mldsa.MLDSA87PrivateKey.generate()
    certificate = make_member(
        swarm,
        name,
        Role.DRONE,
        key.public_key(),
        store._authority(),
        store._authority_key,
        time.time_ns(),
        365.0,
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (path / "members" / BAD / "identity.pem").write_bytes(pem)


def of_bad(file: str) -> Callable[[Path], Path]:
    return lambda keys: keys / "members" / BAD / file


certificate, key = of_bad("identity.pem"), of_bad("identity.key")


def loop(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def replaced_by_file(keys: Path) -> None:
    shutil.rmtree(keys / "members" / BAD)
    (keys / "members" / BAD).write_bytes(b"not a folder")


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# What makes the certificate of a member useless: (damage, words of the sentence that names it).
CERTIFICATES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda keys: certificate(keys).write_bytes(b""), "is not an X.509 certificate"),
    "cut short": (
        lambda keys: certificate(keys).write_bytes(certificate(keys).read_bytes()[:700]),
        "is not an X.509 certificate",
    ),
    "noise": (lambda keys: certificate(keys).write_bytes(os.urandom(9000)), "is not an X.509 certificate"),
    "a key": (lambda keys: certificate(keys).write_bytes(key(keys).read_bytes()), "is not an X.509"),
    "large": (lambda keys: certificate(keys).write_bytes(bytes(1_100_000)), "larger than allowed"),
    "missing": (lambda keys: certificate(keys).unlink(), "a key without its certificate"),
    "a folder": (lambda keys: as_folder(certificate(keys)), "is not a file"),
    "a pipe": (lambda keys: as_fifo(certificate(keys)), "is not a file"),
    "a link to nothing": (
        lambda keys: (certificate(keys).unlink(), certificate(keys).symlink_to("/nonexistent/x")),
        "is a symbolic link to /nonexistent/x, which is not followed",
    ),
    "a link to itself": (lambda keys: loop(certificate(keys)), "which is not followed"),
    "its folder a link to itself": (lambda keys: loop(keys / "members" / BAD), "Too many levels"),
    "its folder a file": (replaced_by_file, "move away what stands in its place"),
    "of another authority": (
        lambda keys: shutil.copy(keys.parent / "other.pem", certificate(keys)),
        "was not issued by this keystore's authority",
    ),
    "of another swarm": (
        lambda keys: swarm_certificate(keys, "beta", BAD),
        "belongs to swarm beta, this keystore to chimera",
    ),
    "of another name": (
        lambda keys: swarm_certificate(keys, "chimera", "drone_09"),
        "is the certificate of drone_09, not of drone_01",
    ),
    "an authority's": (
        lambda keys: shutil.copy(keys / "authority.pem", certificate(keys)),
        "has no single URI",
    ),
}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(["keys", *argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    for line in err.splitlines():
        assert line.startswith("chimera keys: ")
        assert len(line) < 1000
    return status, out, err


@pytest.fixture(params=CERTIFICATES, ids=lambda name: name.replace(" ", "_"))
def damage(request: pytest.FixtureRequest, keys: Path, whole: Path) -> str:
    shutil.copy(whole / "other" / "members" / BAD / "identity.pem", keys.parent / "other.pem")
    make, words = CERTIFICATES[request.param]
    make(keys)
    return words


def test_a_damaged_member_does_not_hide_the_others(
    damage: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "list", "--json", "--keystore", str(keys))
    assert status == 1
    listed = {member["name"]: member for member in json.loads(out)}
    assert set(listed) == {name for name, _ in MEMBERS}
    assert {name for name, member in listed.items() if member["state"] == "ok"} == set(listed) - {BAD}
    assert listed[BAD]["state"] == "damaged"
    (sentence,) = listed[BAD]["faults"]
    assert damage in sentence
    assert err == f"chimera keys: {sentence}\n"
    status, out, _ = run(capsys, "list", "--keystore", str(keys))
    assert status == 1
    assert all(name in out for name in listed)


def test_the_way_out_works(damage: str, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, before = run(capsys, "list", "--keystore", str(keys))
    assert any(word in before for word in ("restore", "move away", "move it away")), "the way out is named"
    for verb in (("show", BAD), ("renew", BAD), ("revoke", BAD)):
        status, _, err = run(capsys, *verb, "--keystore", str(keys))
        assert status == 1
        assert damage in err
    folder = keys / "members" / BAD
    folder.rename(keys / "moved_away")
    assert run(capsys, "enroll", BAD, "drone", "--keystore", str(keys))[0] == 0
    assert run(capsys, "list", "--keystore", str(keys))[0] == 0


def test_enrolling_over_what_is_damaged_destroys_nothing(
    damage: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "without its certificate" in damage:  # what an interrupted `enroll` leaves: it is done again
        assert run(capsys, "enroll", BAD, "drone", "--keystore", str(keys))[0] == 0
        assert run(capsys, "list", "--keystore", str(keys))[0] == 0
        return
    before = key(keys).read_bytes() if os.path.exists(key(keys)) else None
    status, _, err = run(capsys, "enroll", BAD, "drone", "--keystore", str(keys))
    assert status == 1
    assert "already enrolled" not in err
    assert before == (key(keys).read_bytes() if os.path.exists(key(keys)) else None)


def test_every_command_works_for_the_others(
    damage: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(default_policy.TEXT.replace("version: 1\n", "version: 2\n"))
    for verb in (
        ("show", "drone_02"),
        ("renew", "drone_02"),
        ("enroll", "drone_03", "drone"),
        ("enroll", "crypto_1", "crypto"),
        ("revoke", "drone_02"),
        ("revoke", "--refresh"),
        ("policy", str(policy)),
        ("fallback",),
    ):
        assert run(capsys, *verb, "--keystore", str(keys))[0] == 0, verb


def test_a_damaged_crypto_node_keeps_its_rank(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (keys / "members" / "crypto_0" / "identity.pem").write_bytes(b"")
    status, _, err = run(capsys, "enroll", "spare", "crypto", "--keystore", str(keys))
    assert status == 2
    assert "the damaged crypto_0 has" in err
    assert run(capsys, "enroll", "crypto_1", "crypto", "--keystore", str(keys))[0] == 0


KEYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda keys: key(keys).write_bytes(b""), "cannot open the key"),
    "cut short": (lambda keys: key(keys).write_bytes(key(keys).read_bytes()[:60]), "cannot open the key"),
    "readable by others": (lambda keys: key(keys).chmod(0o644), "run `chmod 600"),
    "a folder": (lambda keys: as_folder(key(keys)), "is not a file"),
    "of another member": (
        lambda keys: shutil.copy(keys / "members" / "drone_02" / "identity.key", key(keys)),
        "does not fit identity.pem",
    ),
    "of another kind": (
        lambda keys: key(keys).write_bytes(
            rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        ),
        "is not an ML-DSA-87 key",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_cannot_be_used_is_named(
    kind: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = KEYS[kind]
    make(keys)
    status, out, err = run(capsys, "list", "--json", "--keystore", str(keys))
    assert status == 1
    listed = {member["name"]: member["faults"] for member in json.loads(out)}
    assert [name for name, faults in listed.items() if faults] == [BAD]
    assert words in err
    status, _, err = run(capsys, "show", BAD, "--keystore", str(keys))
    assert status == 1
    assert words in err


def test_a_certificate_without_key_is_no_fault_and_renewed(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key(keys).unlink()
    assert run(capsys, "list", "--keystore", str(keys))[0] == 0
    assert run(capsys, "renew", BAD, "--keystore", str(keys))[0] == 0
    assert key(keys).is_file()


def test_what_is_no_member_is_in_nobodys_way(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = keys / "members"
    (members / "README.txt").write_text("foreign")
    (members / ".hidden").mkdir()
    (members / "lost+found").mkdir()
    (members / "drone_09").mkdir()
    assert run(capsys, "list", "--keystore", str(keys))[0] == 0
    foreign = members / "Drone \x1b[31m[red]"
    shutil.copytree(members / "drone_02", foreign)
    status, out, err = run(capsys, "list", "--keystore", str(keys))
    assert status == 1
    assert "is no member name" in err
    assert "\x1b" not in err
    assert "drone_02" in out
    status, out, _ = run(capsys, "list", "--json", "--keystore", str(keys))
    assert len(json.loads(out)) == len(MEMBERS) + 1


STATES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "state empty": ("state.json", lambda path: path.write_bytes(b""), "the state file is damaged"),
    "state cut short": ("state.json", lambda path: path.write_bytes(b'{"format": 1,'), "is damaged"),
    "state noise": ("state.json", lambda path: path.write_bytes(os.urandom(500)), "is damaged"),
    "state a list": ("state.json", lambda path: path.write_text("[]"), "is damaged"),
    "state of the future": (
        "state.json",
        lambda path: path.write_text('{"format": 9}'),
        "upgrade chimera_ros",
    ),
    "state a folder": ("state.json", lambda path: path.mkdir(), "state.json is not a file"),
    "state a pipe": ("state.json", os.mkfifo, "state.json is not a file"),
    "state a link to nothing": (
        "state.json",
        lambda path: path.symlink_to("none"),
        "is a symbolic link to none",
    ),
    "numbers a folder": ("state.json.number", lambda path: path.mkdir(), "state.json.number is not a file"),
    "evictions a folder": ("state.json.epoch", lambda path: path.mkdir(), "state.json.epoch is not a file"),
    "list a folder": ("crl.der", lambda path: path.mkdir(), "crl.der is not a file"),
    "list large": ("crl.der", lambda path: path.write_bytes(bytes(600_000)), "is larger than allowed"),
    "policy a link to itself": (
        "policy.signed",
        lambda path: path.symlink_to(path.name),
        "is a symbolic link",
    ),
    "lock a folder": ("in_use.lock", lambda path: path.mkdir(), "in_use.lock is not a file"),
    "state for all": (
        "state.json",
        lambda path: (path.write_text("{}"), path.chmod(0o666)),
        "can be changed by every user",
    ),
}


@pytest.mark.parametrize("kind", STATES)
def test_what_a_member_keeps_is_looked_at(kind: str, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, make, words = STATES[kind]
    make(keys / "members" / BAD / file)
    status, out, err = run(capsys, "list", "--json", "--keystore", str(keys))
    assert status == 1
    listed = {member["name"]: member["faults"] for member in json.loads(out)}
    assert [name for name, faults in listed.items() if faults] == [BAD]
    assert words in err
    for verb in (("renew", BAD), ("revoke", BAD), ("enroll", "drone_03", "drone"), ("fallback",)):
        assert run(capsys, *verb, "--keystore", str(keys))[0] == 0, "these do not need the member's state"


SHARED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "authority empty": ("authority.pem", lambda path: path.write_bytes(b""), "is no certificate; restore it"),
    "authority a loop": ("authority.pem", loop, "is a symbolic link to"),
    "list cut short": (
        "crl.pem",
        lambda path: path.write_bytes(path.read_bytes()[:900]),
        "is no revocation list; restore it",
    ),
    "list a folder": ("crl.pem", as_folder, "crl.pem is not a file"),
    "list a pipe": ("crl.pem", as_fifo, "crl.pem is not a file"),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_all_need_is_named_in_one_sentence(
    kind: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, make, words = SHARED[kind]
    make(keys / file)
    verbs = [("list",), ("show", "drone_02"), ("renew", "drone_02"), ("revoke", "drone_02"), ("fallback",)]
    for verb in [*verbs, ("enroll", "crypto_1", "crypto")]:
        status, _, err = run(capsys, *verb, "--keystore", str(keys))
        assert status == 1
        assert words in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"version: 1\n", bytes(range(256)), b"{" * 5000],
    ids=["empty", "cut short", "noise", "deep"],
)
def test_a_damaged_policy_is_named(content: bytes, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (keys / "policy.yaml").write_bytes(content)
    status, out, err = run(capsys, "list", "--keystore", str(keys))
    assert (status, err.count("\n")) == (1, 1)
    assert "policy.yaml was changed after it was signed" in err
    assert all(name in out for name, _ in MEMBERS)
    newer = keys.parent / "newer.yaml"
    newer.write_text(default_policy.TEXT.replace("version: 1\n", "version: 2\n"))
    for verb in (("enroll", "drone_03", "drone"), ("policy", str(newer)), ("fallback",)):
        status, _, err = run(capsys, *verb, "--keystore", str(keys))
        assert status == 1
        assert "policy.yaml" in err
        assert "restore" in err
        assert err.count("\n") == 1
    assert not (keys / "members" / "drone_03").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_text("[]"),
        lambda path: path.chmod(0o644),
    ],
)
def test_a_damaged_fallback_secret_is_made_again(
    damage: Callable[[Path], object], keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(keys / "fallback.key")
    status, out, err = run(capsys, "list", "--keystore", str(keys))
    assert (status, err.count("\n")) == (1, 1)
    assert f"make a new one with `chimera keys fallback --keystore {keys}`" in err
    assert all(name in out for name, _ in MEMBERS)
    assert run(capsys, "fallback", "--keystore", str(keys))[0] == 0
    assert run(capsys, "list", "--keystore", str(keys))[0] == 0
    assert AuthorityKeystore(keys).fallback() is not None


def test_a_superseded_certificate_that_is_damaged_does_not_prevent_a_revocation(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,) = (keys / "members" / BAD / "retired").glob("*.pem")
    before = old.read_bytes()
    old.write_bytes(b"")
    status, out, err = run(capsys, "revoke", BAD, "--keystore", str(keys))
    assert status == 1, "not all were revoked"
    assert "1 certificate revoked" in out
    assert f"{old} is no certificate, so that it was not revoked" in err
    old.write_bytes(before)
    status, out, _ = run(capsys, "revoke", BAD, "--old", "--keystore", str(keys))
    assert (status, "1 certificate revoked" in out) == (0, True)


def test_an_authority_of_another_kind_is_refused(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = make_authority("chimera", mldsa.MLDSA87PrivateKey.generate(), time.time_ns(), 30.0)
    (keys / "authority.pem").write_bytes(pem.public_bytes(serialization.Encoding.PEM))
    status, _, err = run(capsys, "list", "--keystore", str(keys))
    assert (status, "was not signed by this keystore's authority" in err) == (1, True)
    private = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chimera authority")])
    foreign = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
    (keys / "authority.pem").write_bytes(foreign.public_bytes(serialization.Encoding.PEM))
    for verb in (("list",), ("show", "drone_02"), ("renew", "drone_02"), ("fallback",)):
        status, _, err = run(capsys, *verb, "--keystore", str(keys))
        assert (status, "the key is not ML-DSA-87" in err) == (1, True)


@pytest.mark.parametrize("file", ["crl.pem", "policy.yaml", "policy.sig", "authority.pem"])
def test_a_running_crypto_node_goes_on_beside_files_that_are_none(file: str, keys: Path) -> None:
    store = AuthorityKeystore(keys, durable=False)
    watch = KeystoreWatch(keys, store.load_trust(wall_ns=time.time_ns()))
    as_fifo(keys / file)  # reading it would block the node
    assert watch.poll() is None, "it may still be written"
    with pytest.raises(KeystoreError, match=rf"{file} is not a file.* goes on with what it has loaded"):
        watch.poll()
    assert watch.poll() is None
