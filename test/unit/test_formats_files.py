"""Files that people bring: what is wrong with one is one sentence with file, line and what is allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from chimera_ros.cli import main
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.evidence_files import read_json
from chimera_ros.crypto.errors import KeystoreError, PolicyError
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret, read_secret, write_secret
from chimera_ros.crypto.keystore.keystore import Keystore, with_validity
from chimera_ros.crypto.keystore.member_state import StoredState
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.trust.policy import load_policy
from chimera_ros.flight.limits import MOTION_RANGES, FlightEnvelope
from chimera_ros.flight.planning.mission_file import MissionError, load_mission, parse_mission
from chimera_ros.moderation.file_format import SceneError, read_scene
from chimera_ros.records.tracks import read_tracks

MISSION = """\
mission: test
datum: {lat_deg: 47, lon_deg: 8, amsl_m: 400}
separation_m: 2
fence: {east_m: [-50, 50], north_m: [-50, 50], height_m: [1, 40]}
steps:
  - takeoff: {height_m: 8}
  - land
"""
POLICY = with_validity(default_policy.TEXT, "testswarm", 1_900_000_000_000_000_000, 100)
SCENE = """\
{
 "separation": {"horizontal_m": 5, "vertical_m": 4},
 "deadline_s": 0.25,
 "trajectories": [{"drone": "a", "line": {"from_m": [0, 0, 40], "to_m": [50, 0, 40]}}]
}
"""


@dataclass(frozen=True)
class Kind:
    """A kind of file: a good one, a number in it, and the command that reads it."""

    text: str
    number: tuple[str, str]  # a line with a number, the number
    twice: str  # a line that may not come again
    nested: tuple[str, str]  # before and behind brackets in the place of `number`'s line
    large: int
    words: Callable[[Path], list[str]]

    def line_of(self, part: str) -> int:
        return self.text[: self.text.index(part)].count("\n") + 1


KINDS = {
    "mission": Kind(
        MISSION,
        ("separation_m: 2\n", "2"),
        "separation_m: 2\n",
        ("[", "]"),
        65536,
        lambda p: ["check", str(p), "--drones", "2"],
    ),
    "policy": Kind(
        default_policy.TEXT,
        ("  rotation_s: 60.0\n", "60.0"),
        "version: 1\n",
        ("[", "]"),
        262144,
        lambda p: ["keys", "create", str(p.parent / "keys"), "--no-passphrase", "--policy", str(p)],
    ),
    "scene": Kind(
        SCENE,
        (' "deadline_s": 0.25,\n', "0.25"),
        ' "deadline_s": 0.25,\n',
        ("[", "]"),
        128 * 1024 * 1024,
        lambda p: ["moderate", str(p), "--backend", "none"],
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Kind, bytes], str]:
    """What the command of a kind says to these bytes; it must refuse them in one sentence."""

    def run(kind: Kind, data: bytes) -> str:
        path = tmp_path / "brought"
        path.write_bytes(data)
        assert main(kind.words(path)) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and len(error) < 1000 and error.isprintable() is False
        assert error[:-1].isprintable(), error
        return error

    return run


def has_line(error: str, line: int) -> bool:
    return f":{line}: " in error or f"line {line}" in error


def test_what_is_good_is_read(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, data in enumerate(
        (
            kind.text.encode(),
            b"\xef\xbb\xbf" + kind.text.encode(),  # a byte order mark
            kind.text.replace("\n", "\r\n").encode(),
            kind.text.rstrip("\n").encode(),
        )
    ):
        path = tmp_path / str(number) / "brought"
        path.parent.mkdir()
        path.write_bytes(data)
        assert main(kind.words(path)) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (b"\x00", "U+0000"),
        (b"\x07", "U+0007"),
        (b"\x1b[31m", "U+001B"),
        (b"\x7f", "U+007F"),
        (b"\r#", "U+000D"),  # without a line feed
        ("\x85".encode(), "U+0085"),
        ("\u2028".encode(), "U+2028"),
        ("\ufeff".encode(), "U+FEFF"),  # a mark that is not at the beginning
        ("\ufffe".encode(), "U+FFFE"),
    ],
)
def test_control_characters_and_marks(kind: Kind, refused: Callable, mark: bytes, name: str) -> None:
    line, number = kind.number
    data = kind.text.replace(line, line.replace(number, number + "@")).encode().replace(b"@", mark)
    error = refused(kind, data)
    assert name in error and has_line(error, kind.line_of(line)) and "allowed" in error


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings(kind: Kind, refused: Callable, encoding: str) -> None:
    error = refused(kind, kind.text.encode(encoding))
    assert "UTF-8" in error or "U+0000" in error
    assert "UTF-16" in refused(kind, kind.text.encode("utf-16"))


def test_bytes_that_are_no_utf_8(kind: Kind, refused: Callable) -> None:
    line, _ = kind.number
    error = refused(kind, kind.text.replace(line, "@" + line).encode().replace(b"@", b"\xe9"))
    assert "UTF-8" in error and has_line(error, kind.line_of(line))


@pytest.mark.parametrize(
    "number",
    [
        "1" * 5000, "-" + "1" * 5000, "0." + "3" * 5000, "1e" + "9" * 5000, "0x10", "1_000", "1e", "e1", "+",
        "1.e+-3", "\u0662", "1e999", "-1e999",
    ],
)  # fmt: skip
def test_what_is_no_number(kind: Kind, refused: Callable, number: str) -> None:
    line, good = kind.number
    error = refused(kind, kind.text.replace(line, line.replace(good, number)).encode())
    if kind.text != SCENE or not number.endswith("1e999"):  # then field and range are told
        assert has_line(error, kind.line_of(line)), error


@pytest.mark.parametrize(
    "number", ["0o17", ".inf", "-.inf", ".nan", ".NaN", "1:30", "'2'", '"2"', "!!float 2"]
)
@pytest.mark.parametrize("name", ["mission", "policy"])
def test_what_yaml_would_take_for_a_number(refused: Callable, name: str, number: str) -> None:
    line, good = KINDS[name].number
    error = refused(KINDS[name], KINDS[name].text.replace(line, line.replace(good, number)).encode())
    assert has_line(error, KINDS[name].line_of(line)), error


@pytest.mark.parametrize(
    "number", ["2e0", "2.0e0", "2E+0", "20.e-1", ".2e1", "2.", "+2", "0002", "2.00", "0.000002e6"]
)
def test_numbers_as_yaml_1_2_has_them(number: str) -> None:
    assert (
        parse_mission(MISSION.replace("separation_m: 2\n", f"separation_m: {number}\n")).separation_m == 2.0
    )
    policy = load_policy(POLICY.replace("rotation_s: 60.0", f"rotation_s: {number}"))
    assert policy.limits.rotation_s == 2.0


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_json_knows_no_infinity(refused: Callable, token: str) -> None:
    error = refused(KINDS["scene"], SCENE.replace("0.25", token).encode())
    assert token in error and has_line(error, 3)


def test_what_is_given_twice(kind: Kind, refused: Callable) -> None:
    error = refused(kind, kind.text.replace(kind.twice, kind.twice * 2).encode())
    assert "is given twice" in error and has_line(error, kind.line_of(kind.twice) + 1)
    if kind.text == SCENE:
        error = refused(
            kind, SCENE.replace('"vertical_m": 4', '"vertical_m": 4, "vertical\\u005fm": 4').encode()
        )
        assert "vertical_m: is given twice" in error and has_line(error, 2)


@pytest.mark.parametrize("depth", [40, 2000, 60_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_nesting(kind: Kind, refused: Callable, depth: int, brackets: str) -> None:
    if depth > kind.large // 4:
        return
    line, number = kind.number
    opened = brackets[0] if brackets == "[]" else '{"a": ' if kind.text == SCENE else "{a: "
    for nested in (opened * depth, opened * depth + "1" + brackets[1] * depth):
        if len(nested) > kind.large // 2:
            continue
        error = refused(kind, kind.text.replace(line, line.replace(number, nested)).encode())
        assert "nested" in error and has_line(error, kind.line_of(line)), error


@pytest.mark.parametrize("name", ["mission", "policy"])
def test_nesting_by_indentation(refused: Callable, name: str) -> None:
    deep = "".join(f"{' ' * level}a:\n" for level in range(200))
    assert "nested" in refused(
        KINDS[name], (KINDS[name].text + "deep:\n" + deep.replace("a:", " a:")).encode()
    )


def test_brackets_in_texts_do_not_count() -> None:
    named = SCENE.replace('"a"', json.dumps("[" * 20 + '\\"{' * 4))
    assert read_scene(named).drones[0].startswith("[[")


@pytest.mark.parametrize(
    "value",
    ["&a 2", "*a", "!x 2", "!<tag:x> 2", '"\\UFFFFFFFF"', '"\\ud800"', "2\n--- 3", "%", "@", "\t- 2", "? 2"],
)
@pytest.mark.parametrize("name", ["mission", "policy"])
def test_yaml_that_is_not_taken(refused: Callable, name: str, value: str) -> None:
    line, good = KINDS[name].number
    error = refused(KINDS[name], KINDS[name].text.replace(line, line.replace(good, value)).encode())
    assert has_line(error, KINDS[name].line_of(line) + value.count("\n")), error


def test_a_billion_laughs(refused: Callable) -> None:
    text = "a: &a [x, x, x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a, *a]\n" for i in range(9))
    for name in ("mission", "policy"):
        assert "anchors" in refused(KINDS[name], text.encode())


@pytest.mark.parametrize("name", ["mission", "policy"])
def test_files_that_are_too_large(refused: Callable, name: str) -> None:
    kind = KINDS[name]
    error = refused(kind, kind.text.encode() + b"#" * kind.large)
    assert f"at most {kind.large} bytes" in error


def test_a_scene_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SceneError, match="at most 134217728 bytes"):
        read_scene(b" " * (128 * 1024 * 1024 + 1))


def test_empty_files(refused: Callable) -> None:
    assert "is empty" in refused(KINDS["mission"], b"")
    assert "is not JSON" in refused(KINDS["scene"], b"")
    with pytest.raises(PolicyError, match="is empty"):
        load_policy("")


def test_folders_and_devices(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        words = [
            str(path) if word.endswith("/brought") else word for word in kind.words(tmp_path / "brought")
        ]
        assert main(words) == 2
        error = capsys.readouterr().err
        assert str(path) in error and error.count("\n") == 1 and "larger" not in error


def test_a_mission_that_is_a_folder_or_a_device(tmp_path: Path) -> None:
    with pytest.raises(MissionError, match=r"cannot be read: Is a directory"):
        load_mission(tmp_path)
    with pytest.raises(MissionError, match=r"zero: is a device, not a file"):
        load_mission("/dev/zero")


# ---- passphrases and keys ----------------------------------------------------------------------------------


def create(tmp_path: Path, passphrase: Path) -> int:
    return main(["keys", "create", str(tmp_path / "keys"), "--passphrase-file", str(passphrase)])


def test_a_passphrase_file_is_text_like_any_other(tmp_path: Path) -> None:
    for number, data in enumerate((b"secret\n", b"\xef\xbb\xbfsecret", b"secret\r\nmore", b"secret\n" * 100)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "given").write_bytes(data)
        (folder / "given").chmod(0o600)
        assert create(folder, folder / "given") == 0
        Keystore(folder / "keys", durable=False).unlock(b"secret")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"sec\x00ret\n", "U+0000"),
        (b"sec\x1bret\n", "U+001B"),
        (b"secret\r", "U+000D"),
        ("secret".encode("utf-16"), "UTF-16"),
        (b"secr\xe9t", "UTF-8"),
        (b"\n", "the first line of"),
        (b"\xef\xbb\xbf\n", "the first line of"),
        (b"\n" + b"x" * 100_000, "at most"),
    ],
)
def test_passphrase_files_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, said: str
) -> None:
    given = tmp_path / "given"
    given.write_bytes(data)
    given.chmod(0o600)
    assert create(tmp_path, given) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and str(given) in error and error.count("\n") == 1
    assert "secr" not in error, "a passphrase is not printed"


def test_a_passphrase_comes_from_no_folder_or_device_but_from_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    assert create(tmp_path, tmp_path / "folder") == 2
    assert "Is a directory" in capsys.readouterr().err
    reading, writing = os.pipe()
    os.write(writing, b"secret\n")
    os.close(writing)
    assert create(tmp_path, Path(f"/dev/fd/{reading}")) == 0
    os.close(reading)


@pytest.mark.parametrize("name", ["authority.pem", "crl.pem", "policy.yaml", "authority.key"])
def test_a_keystore_of_devices_and_folders(tmp_path: Path, name: str) -> None:
    store = Keystore(tmp_path / "keys", durable=False)
    store.create("testswarm", wall_ns=1_900_000_000_000_000_000)

    def read() -> None:
        fresh = Keystore(tmp_path / "keys", durable=False)
        fresh.load_trust(wall_ns=1_900_000_000_000_000_000)
        fresh.unlock()

    path = store.path / name
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(KeystoreError, match=f"{name} is not a file"):
        read()
    path.rmdir()
    if name != "authority.key":  # a device is open to all: that is said first
        path.symlink_to("/dev/zero")
        with pytest.raises(KeystoreError, match=f"{name} is a symbolic link to /dev/zero"):
            read()


DAMAGED = [
    b"\xff\xfe{}",
    b"{",
    b"[" * 100_000,
    b'{"format": ' + b"1" * 5000 + b"}",
    b'{"format": 1, "format": 1}',
    b'{"format": NaN}',
    b"{}\x00",
    b"[]",
]


@pytest.mark.parametrize("data", DAMAGED)
def test_damaged_json_of_a_keystore(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fallback.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(KeystoreError, match=r"fallback\.key.* (damaged|larger than allowed)"):
        read_secret(tmp_path)
    with pytest.raises(KeystoreError, match=r"state\.json: the state file is (damaged|larger than allowed)"):
        StoredState.from_json(data.decode("latin-1"), "state.json")


def test_a_secret_copied_by_another_system_is_read(tmp_path: Path) -> None:
    write_secret(tmp_path, FallbackSecret(5, bytes(64)), durable=False)
    path = tmp_path / "fallback.key"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    path.chmod(0o600)
    assert read_secret(tmp_path) == FallbackSecret(5, bytes(64))


# ---- evidence and tracks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [*DAMAGED[:-1], b"", b'{"a": {"b": 1, "b": 1}}', b"\x07"])
def test_evidence_that_is_no_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(data)
    with pytest.raises(CommandFailed) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ") and caught.value.status == 2


def test_evidence_from_another_system(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n "a": [1, 2.5e3]\r\n}\r\n')
    assert read_json(path) == {"a": [1, 2500.0]}
    with pytest.raises(CommandFailed, match="is a device"):
        read_json(Path("/dev/zero"))


def test_lines_of_tracks_that_are_not_json_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    rows = [json.dumps({"t": t, "enu": [[t, 0, 1]]}).encode() for t in (0, 1, 2)]
    junk = [*DAMAGED, b'{"t": NaN, "enu": [[1, 2, 3]]}', b'{"t": 1.5, "t": 1.5, "enu": [[1, 2, 3]]}']
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([rows[0], *junk, rows[1], rows[2]]))
    assert read_tracks(path).time_s.tolist() == [0.0, 1.0, 2.0]


# ---- numbers of a command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["nan", "inf", "1_0", "\u0661", "0x10", "1e999", "1" * 5000])
def test_orders_take_finite_decimal_numbers(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["command", "takeoff", "--height", number]) == 2
    assert "--height" in capsys.readouterr().err


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MOTION_RANGES))
def test_a_mission_and_a_scene_allow_the_same_motion(name: str) -> None:
    low, high = MOTION_RANGES[name]
    for value, good in ((low, True), (high, True), (low / 2.0, False), (high * 1.01, False)):
        mission = MISSION + f"limits: {{{name}: {value}}}\n"
        scene = json.dumps({**json.loads(SCENE), "limits": {name: value}})
        if good:
            assert getattr(parse_mission(mission).limits, name) == value
            assert getattr(read_scene(scene).limits, name) == value
            continue
        for error, read, text in ((MissionError, parse_mission, mission), (SceneError, read_scene, scene)):
            with pytest.raises(error, match=f"limits.{name}: must be a number from {low:g} to {high:g}"):
                read(text)


def test_no_mission_asks_for_motion_that_every_drone_refuses() -> None:
    envelope = FlightEnvelope()
    assert MOTION_RANGES["climb_m_s"][1] == MOTION_RANGES["descent_m_s"][1] == envelope.max_climb_m_s
    assert MOTION_RANGES["acceleration_m_s2"][1] == envelope.max_acceleration_m_s2
    assert MOTION_RANGES["jerk_m_s3"][1] == envelope.max_jerk_m_s3
