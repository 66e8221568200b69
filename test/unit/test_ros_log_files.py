"""ROS's own log files are no condition for a node to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chimera_ros.ros.log_files import init_arguments, log_problem

OFF = ["--ros-args", "--disable-external-lib-logs"]
START = """
import rclpy
from chimera_ros.ros.log_files import init_arguments
rclpy.init(args=init_arguments(["x", "--ros-args", "-r", "__ns:=/there"]))
node = rclpy.create_node("some_name")
node.get_logger().error("a message")
print(node.get_fully_qualified_name())
"""


def test_where_they_can_be_written_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros" / "log"))
    assert init_arguments(["x", "-a"]) == ["x", "-a"]
    assert init_arguments(None) == sys.argv
    assert (tmp_path / "ros").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "ros" / "log").iterdir()) == []
    monkeypatch.delenv("ROS_LOG_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert log_problem() == ""
    assert (tmp_path / "home" / ".ros" / "log").is_dir()
    monkeypatch.setenv("ROS_HOME", str(tmp_path / "other"))
    assert log_problem() == ""
    assert (tmp_path / "other" / "log").is_dir()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ROS_LOG_DIR": "file/x"}, "file/x: Not a directory; name another"),
        ({"ROS_LOG_DIR": "/proc/x"}, "/proc/x: No such file or directory"),
        ({"HOME": "file"}, "file/.ros/log: Not a directory"),
        ({"ROS_HOME": "file"}, "file/log: Not a directory"),
        ({"HOME": ""}, "there is no home folder"),
    ],
)
def test_where_they_cannot_a_node_starts_without(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    words: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("ROS_LOG_DIR")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words in log_problem()
    assert init_arguments(["x"]) == ["x", *OFF]
    error = capsys.readouterr().err
    assert error.startswith("no ROS log files: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("variables", [{"ROS_LOG_DIR": "/proc/x"}, {"ROS_LOG_DIR": "", "HOME": ""}])
def test_rclpy_starts_with_these_arguments(variables: dict[str, str]) -> None:
    path = os.pathsep.join(word for word in sys.path if word)
    done = subprocess.run(
        [sys.executable, "-c", START],
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "/there/some_name\n"
    assert "a message" in done.stderr
