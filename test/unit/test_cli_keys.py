"""`chimera keys`: from an empty folder to a member, and every refusal in one sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from chimera_ros.cli import main
from chimera_ros.commands import keys


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    return path


def test_create_enroll_list_show(
    tmp_path: Path, passphrase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "keys")
    given = ["--passphrase-file", str(passphrase)]
    assert main(["keys", "create", store, "--swarm", "alpha", "--json", *given]) == 0
    assert json.loads(capsys.readouterr().out) == {"keystore": store, "swarm": "alpha", "encrypted": True}
    assert main(["keys", "enroll", "drone_01", "drone", "--keystore", store, *given]) == 0
    assert "drone_01" in capsys.readouterr().out
    assert main(["keys", "list", "--keystore", store, "--json"]) == 0
    (member,) = json.loads(capsys.readouterr().out)
    assert (member["name"], member["role"], member["swarm"], member["state"]) == (
        "drone_01",
        "drone",
        "alpha",
        "ok",
    )
    assert main(["keys", "show", "drone_01", "--keystore", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == member
    assert main(["keys", "list", "--keystore", store]) == 0
    assert "drone_01" in capsys.readouterr().out


def test_a_short_validity_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "keys")
    assert main(["keys", "create", store, "--no-passphrase"]) == 0
    assert main(["keys", "enroll", "drone_01", "drone", "--keystore", store, "--days", "3"]) == 0
    capsys.readouterr()
    main(["keys", "show", "drone_01", "--keystore", store, "--json"])
    assert json.loads(capsys.readouterr().out)["state"] == "expires in 3 days"


def test_the_fallback_secret_is_made_with_the_keystore_and_renewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "keys"
    assert main(["keys", "fallback", "--keystore", str(store)]) == 1
    assert "is missing" in capsys.readouterr().err
    assert main(["keys", "create", str(store), "--no-passphrase"]) == 0
    first = (store / "fallback.key").read_text()
    capsys.readouterr()
    assert main(["keys", "fallback", "--keystore", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(store / "fallback.key")
    assert (store / "fallback.key").read_text() != first
    assert (store / "fallback.key").stat().st_mode & 0o777 == 0o600


def test_refusals(
    tmp_path: Path, passphrase: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    store = str(tmp_path / "keys")

    def refused(status: int, words: str, *argv: str) -> None:
        assert main(["keys", *argv]) == status
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    refused(1, "authority.pem is missing", "list", "--keystore", store)
    refused(2, "--passphrase-file FILE", "create", store)
    refused(2, "--days is -1", "create", store, "--days", "-1", "--no-passphrase")
    refused(2, "two keystores are named", "create", store, "--keystore", "other")
    assert main(["keys", "create", store, "--passphrase-file", str(passphrase)]) == 0
    capsys.readouterr()
    refused(1, "already holds a keystore", "create", store)
    refused(2, "a passphrase is needed", "enroll", "drone_01", "drone", "--keystore", store)
    wrong = tmp_path / "wrong"
    wrong.write_text("battery staple\n")
    wrong.chmod(0o600)
    refused(
        1, "passphrase is wrong", "enroll", "d", "drone", "--keystore", store, "--passphrase-file", str(wrong)
    )
    wrong.chmod(0o644)
    refused(1, "chmod 600", "enroll", "d", "drone", "--keystore", store, "--passphrase-file", str(wrong))
    given = ("--keystore", store, "--passphrase-file", str(passphrase))
    refused(2, "no role", "enroll", "drone_01", "dragon", *given)
    refused(2, "no member name", "enroll", "../x", "drone", *given)
    refused(1, "not enrolled", "show", "drone_09", "--keystore", store)


@pytest.mark.parametrize(
    ("first", "second", "rank"),
    [("crypto", "spare", 0), ("crypto", "crypto_0", 0), ("crypto_0", "spare", 0), ("left_1", "right_1", 1)],
)
def test_a_second_crypto_node_of_one_rank_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str, rank: int
) -> None:
    given = ("--keystore", str(tmp_path / "keys"))
    assert main(["keys", "create", *given, "--no-passphrase"]) == 0
    assert main(["keys", "enroll", first, "crypto", *given]) == 0
    capsys.readouterr()
    assert main(["keys", "enroll", second, "crypto", *given]) == 2
    error = capsys.readouterr().err
    assert f"{second} would have rank {rank}, which {first} has" in error
    assert error.count("\n") == 1
    assert main(["keys", "enroll", second, "drone", *given]) == 0, "only crypto nodes have ranks"
    assert main(["keys", "enroll", "crypto_2", "crypto", *given]) == 0
    assert main(["keys", "revoke", first, *given]) == 0
    assert main(["keys", "enroll", f"heir_{rank}", "crypto", *given]) == 0, "that one is in nobody's way"


def test_the_keystore_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(keys.KEYSTORE_VARIABLE, str(tmp_path / "keys"))
    assert main(["keys", "create", "--no-passphrase"]) == 0
    assert main(["keys", "list", "--json"]) == 0
    assert capsys.readouterr().out.endswith("[]\n")


def test_typed_passphrases_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter([b"one", b"two"])
    monkeypatch.setattr(keys, "_ask", lambda prompt: next(typed))
    assert main(["keys", "create", str(tmp_path / "keys")]) == 2
    assert "differ; nothing was made" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_files_that_are_not_what_they_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "keys"

    def refused(status: int, words: str, *argv: str) -> None:
        assert main(["keys", "create", str(store), *argv]) == status
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert len(error) < 10_000
        assert not store.exists()

    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe\n")
    refused(2, "text in UTF-8", "--no-passphrase", "--policy", str(file))
    file.write_bytes(b"#" * 300_000)
    refused(2, "at most 262144 bytes", "--no-passphrase", "--policy", str(file))
    file.write_bytes(b"")
    refused(1, "`protocol` is missing", "--no-passphrase", "--policy", str(file))
    refused(2, "No such file", "--no-passphrase", "--policy", str(tmp_path / "none"))
    refused(2, "No such file", "--passphrase-file", str(tmp_path / "none"))
    refused(2, "is no swarm name", "--no-passphrase", "--swarm", "x" * 1_000_000)
    file.write_bytes(b"x" * 1024)
    file.chmod(0o600)
    refused(1, "allowed are at most 1023", "--passphrase-file", str(file))

    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", ended)
    refused(2, "no passphrase was given")
