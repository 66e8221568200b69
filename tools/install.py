"""Brings the virtual environment of a checkout up to date: `make install`, `install-all`, `messages`.

Every step leaves a stamp with a hash of what it was made from, so that a second run finds nothing to do and
ends in a fraction of a second. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  (an older one may be asked to run this; said before it fails)
    sys.exit(
        f"chimera_ros: PYTHON is Python {platform.python_version()}; Python 3.11, 3.12 or 3.13 is needed, "
        "for example `make install PYTHON=python3.11`"
    )

import tomllib

import ros_build
from ros_build import SOURCE, BuildError

BEYOND = (3, 14)  # the first Python the ROS wheels do not exist for
# What the messages and the package in the environment are made from.
MESSAGE_INPUTS = (
    "msg",
    "srv",
    "CMakeLists.txt",
    "package.xml",
    "chimera_ros/__init__.py",
    "tools/executable.in",
)


class Trouble(Exception):
    """Cannot go on; the text is one sentence that says why and how to mend it."""


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Says what is being done, shows the seconds while it takes them, and how long it took."""
    begin = time.monotonic()
    live = sys.stdout.isatty()
    finished = threading.Event()

    def count() -> None:
        while not finished.wait(1.0):
            print(f"\r* {text} … {time.monotonic() - begin:.0f} s ", end="", flush=True)

    print(f"* {text} …", end="", flush=True)
    counter = threading.Thread(target=count, daemon=True)
    if live:
        counter.start()
    outcome = "failed after"
    try:
        yield
        outcome = "done in"
    finally:
        finished.set()
        if live:
            counter.join()
        start = f"\r* {text} …" if live else ""
        print(f"{start} {outcome} {time.monotonic() - begin:.1f} s", flush=True)


class Environment:
    """The virtual environment of this checkout, its stamps and what is wanted in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        self.state = path / ".chimera"
        self.log = self.state / "log.txt"
        self.project = tomllib.loads((SOURCE / "pyproject.toml").read_text())

    # -- stamps

    def stamps(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.state / "stamps.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def stamp(self, values: dict[str, str]) -> None:
        merged = {**self.stamps(), **values}
        temporary = self.state / "stamps.json.new"
        temporary.write_text(json.dumps(merged, indent=1))
        temporary.replace(self.state / "stamps.json")

    # -- what is wanted

    def requirements(self, group: str) -> list[str]:
        """Requirements of a group: "base" is the build's and the package's own, the others are the extras."""
        if group == "base":
            return [*self.project["build-system"]["requires"], *self.project["project"]["dependencies"]]
        return list(self.project["project"]["optional-dependencies"][group])

    def requirements_hash(self, group: str) -> str:
        constraints = [Path(name) for name in os.environ.get("PIP_CONSTRAINT", "").split()]
        texts = [*self.requirements(group), *(path.read_text() for path in constraints if path.is_file())]
        return _hash(*(text.encode() for text in texts))

    def messages_hash(self, dependencies: str) -> str:
        parts = [dependencies.encode(), str(SOURCE).encode(), _python_version(self.path).encode()]
        for name in MESSAGE_INPUTS:
            root = SOURCE / name
            for path in sorted(root.iterdir()) if root.is_dir() else [root]:
                parts += [str(path.relative_to(SOURCE)).encode(), path.read_bytes()]
        return _hash(*parts)

    def package_hash(self) -> str:
        wanted = {key: self.project["project"].get(key) for key in ("name", "version", "scripts")}
        return _hash(json.dumps(wanted).encode(), str(SOURCE).encode())

    # -- steps

    def create(self) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.python.exists():
            present = ".".join(_python_version(self.path).split(".")[:2])
            if present != version:
                raise Trouble(
                    f"{_shown(self.path)} holds Python {present} but PYTHON is {version}: "
                    f"`make clean` removes it, or VENV=.venv-{version} makes another beside it"
                )
            return
        _check_machine()
        with step(f"making the virtual environment {_shown(self.path)} with Python {version}"):
            self._run(
                [sys.executable, "-m", "venv", "--clear", str(self.path)], "make the virtual environment"
            )
            (self.path / "COLCON_IGNORE").touch()  # its share/ is full of packages

    def install(self, groups: list[str]) -> None:
        stamps = self.stamps()
        present = [key.removeprefix("group ") for key in stamps if key.startswith("group ")]
        known = ["base", *self.project["project"]["optional-dependencies"]]
        wanted = [group for group in known if group in groups or group in present]
        hashes = {f"group {group}": self.requirements_hash(group) for group in wanted}
        if all(stamps.get(key) == value for key, value in hashes.items()):
            return
        _check_machine()
        requirements = list(dict.fromkeys(line for group in wanted for line in self.requirements(group)))
        extras = ", ".join(group for group in wanted if group != "base") or "no extras"
        about = "several minutes, torch is large" if "neural" in wanted else "one to three minutes"
        with step(f"installing {len(requirements)} requirements with what they need ({extras}; {about})"):
            self._run([*self._pip(), *requirements], "install the requirements")
        self.stamp(hashes)

    def messages(self) -> None:
        dependencies = self.stamps().get("group base", "")
        wanted = self.messages_hash(dependencies)
        if self.stamps().get("messages") == wanted:
            return
        missing = ros_build.missing_prerequisites()
        if missing:
            _check_machine()
        fresh = not (self.state / "build").is_dir()
        if fresh or self.stamps().get("messages base") != dependencies:
            shutil.rmtree(self.state / "build", ignore_errors=True)  # CMake remembers paths of the old wheels
        with step("compiling the messages" + (" (about half a minute)" if fresh else "")):
            ros_build.build(
                self.state / "build",
                self.path,
                rooms=False,
                python=self.python,
                ros=self.path,
                log_file=self.log,
            )
        self.stamp({"messages": wanted, "messages base": dependencies})

    def package(self) -> None:
        wanted = self.package_hash()
        if self.stamps().get("package") == wanted and (self.path / "bin" / "chimera").exists():
            return
        with step("linking the checkout into the environment and making the `chimera` command"):
            # compat: a plain path in a .pth file, which extend_path and static tools understand, instead of
            # an import hook.
            mode = ["--no-deps", "--no-build-isolation", "--config-settings", "editable_mode=compat"]
            command = [*self._pip(), *mode, "--editable", str(SOURCE)]
            self._run(command, "link the checkout into the environment")
        self.stamp({"package": wanted})

    # -- helpers

    def _pip(self) -> list[str]:
        return [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]

    def _run(self, command: list[str], purpose: str) -> None:
        environ = ros_build.clean_environment()
        environ.pop("PYTHONPATH", None)  # a sourced ROS workspace must not count as installed
        done = subprocess.run(
            command,
            env=environ,
            cwd=SOURCE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.state.mkdir(parents=True, exist_ok=True)
        self.log.write_text(done.stdout)
        if done.returncode != 0:
            raise BuildError(
                f"could not {purpose} ({Path(command[0]).name} exited with {done.returncode})", done.stdout
            )


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _python_version(environment: Path) -> str:
    for line in (environment / "pyvenv.cfg").read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "version":
            return value.strip()
    raise Trouble(f"{_shown(environment)}/pyvenv.cfg names no Python version: `make clean`, then try again")


def _shown(path: Path) -> str:
    return str(path.relative_to(SOURCE)) if path.is_relative_to(SOURCE) else str(path)


def _check_machine() -> None:
    if sys.version_info >= BEYOND:
        raise Trouble(
            f"PYTHON is Python {platform.python_version()}, for which there are no ROS wheels; "
            "3.11, 3.12 or 3.13 is needed, for example `make install PYTHON=python3.11`"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Trouble(
            f"the ROS wheels exist for Linux on x86-64 only, this is {platform.system()} "
            f"on {platform.machine()}: install ROS 2 itself and build with colcon, as README.md says"
        )
    missing = ros_build.missing_prerequisites()
    if missing:
        what = ", ".join(name for name, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        raise Trouble(f"missing here: {what}; on Debian and Ubuntu `sudo apt install {packages}` installs it")


def _tail(log: str, lines: int = 25) -> str:
    return "\n".join(log.splitlines()[-lines:])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="the environment (default .venv)")
    parser.add_argument("--extras", default="", help="comma-separated extras of pyproject.toml, or `all`")
    parser.add_argument(
        "--only-messages", action="store_true", help="compile msg/ and srv/ into an existing environment"
    )
    options = parser.parse_args()

    begin = time.monotonic()
    path = options.venv if options.venv.is_absolute() else SOURCE / options.venv
    environment = Environment(path)
    try:
        extras = [name for name in options.extras.split(",") if name]
        known = list(environment.project["project"]["optional-dependencies"])
        if extras == ["all"]:
            extras = known
        if unknown := [name for name in extras if name not in known]:
            raise Trouble(f"there is no extra {unknown[0]!r}; allowed are {', '.join(known)} and all")
        if options.only_messages and not environment.python.exists():
            raise Trouble(f"{_shown(path)} does not exist yet: `make install` makes it")
        environment.create()
        environment.state.mkdir(exist_ok=True)
        with (environment.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once take turns
            if not options.only_messages:
                environment.install(["base", *extras])
            environment.messages()
            if not options.only_messages:
                environment.package()
    except BuildError as error:
        print(_tail(error.log), file=sys.stderr)
        print(f"chimera_ros: {error}; the whole output is in {_shown(environment.log)}", file=sys.stderr)
        return 1
    except Trouble as error:
        print(f"chimera_ros: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nchimera_ros: interrupted; run it again to go on", file=sys.stderr)
        return 130
    if (took := time.monotonic() - begin) > 1.0:
        print(f"* {_shown(path)} is ready after {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
