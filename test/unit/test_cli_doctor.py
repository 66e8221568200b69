"""`chimera doctor`: it finds what is wrong, and a check that breaks does not end it."""

from __future__ import annotations

import ctypes.util
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera_ros.cli import main
from chimera_ros.commands import doctor_checks
from chimera_ros.commands.doctor_checks import ADVICE, MISSING, OK, OPTIONAL, Check, run_checks
from chimera_ros.launcher import shared_memory


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_the_installed_things_are_found() -> None:
    checks = by_name(run_checks())
    for name in ("Python", "cryptography", "numpy", "pyyaml", "psutil"):
        assert checks[name].status == OK, checks[name]
    assert "ML-KEM-1024" in checks["cryptography"].detail
    for check in checks.values():
        assert check.advice or check.status == OK, f"{check.name} is not ok and says not what to do"


def test_missing_things_are_named_and_the_status_is_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor_checks._version
    monkeypatch.setattr(
        doctor_checks, "_version", lambda *names: "none" if "mavsdk" in names else real(*names)
    )
    assert main(["doctor", "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert not value["ok"]
    (row,) = [check for check in value["checks"] if check["name"] == "mavsdk"]
    assert row["status"] == MISSING
    assert "make install" in row["advice"]
    assert main(["doctor"]) == 1
    assert "no swarm can fly here yet" in capsys.readouterr().out


def test_a_busy_port_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        assert doctor_checks.busy_ports([port]) == [port]
    assert doctor_checks.busy_ports([port]) == []


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Check]:
        raise RuntimeError("boom")
        yield

    monkeypatch.setattr(doctor_checks, "_network", broken)
    found = [check for check in run_checks() if "boom" in check.detail]
    assert [check.status for check in found] == [ADVICE]


def test_the_provider_is_named_and_a_file_that_is_no_library_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "liboqs.so").write_bytes(b"not really")
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    row = by_name(run_checks())["provider"]
    assert row.status == OPTIONAL
    assert row.detail.startswith("openssl (")


def test_clean_removes_what_dead_processes_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fastdds_0123456789abcdef", "fastdds_0123456789abcdef_el", "other"):
        (tmp_path / name).write_text("")
    real_dead, real_remove = shared_memory.dead_segments, shared_memory.remove
    monkeypatch.setattr(shared_memory, "dead_segments", lambda: real_dead(tmp_path))
    monkeypatch.setattr(shared_memory, "remove", lambda names: real_remove(names, tmp_path))
    assert by_name(run_checks())["left by dead processes"].status == ADVICE
    main(["doctor", "--clean"])
    assert "removed 1 Fast DDS" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
