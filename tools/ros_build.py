"""Runs the package's CMake build outside colcon: for `pip install .` (setup.py) and for `make` (install.py).

Needs the wheels of pyproject.toml's [build-system] in some environment; finds them through
`ament_index_python`. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]

# Set by the ROS wheels' bootstrapper for one environment; wrong for the Python of any other.
_BOOTSTRAP_VARIABLES = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


class BuildError(Exception):
    """The build failed; the text says where and how to mend it, `log` is what the tools printed."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def missing_prerequisites(environ: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """(what is missing, Debian package that has it) of what pip cannot install; empty when all is there."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    path = environ.get("PATH")
    missing = []
    if not any(shutil.which(name, path=path) for name in (environ.get("CXX", ""), "c++", "g++") if name):
        missing.append(("a C++ compiler", "g++"))
    if not any(shutil.which(name, path=path) for name in (environ.get("CC", ""), "cc", "gcc") if name):
        missing.append(("a C compiler", "gcc"))
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append(
            (f"Python's headers ({sysconfig.get_path('include')}/Python.h)", f"python{version}-dev")
        )
    try:
        import ensurepip
        import venv  # noqa: F401  (Debian splits it off)

        ensurepip.version()
    except ImportError:
        missing.append(("Python's venv module", f"python{version}-venv"))
    if not shutil.which("make", path=path):
        missing.append(("make", "make"))
    return missing


def ros_prefix() -> Path:
    """Prefix in which this interpreter sees the ROS wheels: the environment, or pip's build overlay.

    Raises:
        BuildError: no wheels here.
    """
    try:
        import ament_index_python
    except ImportError:
        raise BuildError(
            f"{sys.executable} does not see the ROS wheels: run `make install`, "
            "or leave pip its build isolation"
        ) from None
    # <prefix>/lib/pythonX.Y/site-packages/ament_index_python/__init__.py
    return Path(ament_index_python.__file__).parents[4]


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what the wheels' bootstrapper left in it."""
    return {key: value for key, value in environ.items() if key not in _BOOTSTRAP_VARIABLES}


def build(
    build_dir: Path,
    install_prefix: Path,
    *,
    rooms: bool,
    python: Path | str = sys.executable,
    ros: Path | None = None,
    shebang: str = "",
    log_file: Path | None = None,
) -> list[Path]:
    """Configure, compile and install the package; returns the installed files.

    Args:
        build_dir: kept between calls, so that only what changed is compiled again.
        install_prefix: where `lib/`, `share/` and the rest land.
        rooms: install the Python rooms, launch files and configuration too, not only what was compiled.
        python: interpreter to build for; it must see the build requirements.
        ros: prefix of the ROS wheels; the interpreter's own by default.
        shebang: interpreter line of the executables; the building interpreter when empty.
        log_file: where the tools' output goes; kept in memory when None.

    Raises:
        BuildError: naming the failed step, with the output.
    """
    prefix = ros or ros_prefix()
    environ = clean_environment()
    environ["AMENT_PREFIX_PATH"] = str(prefix)
    environ["CMAKE_PREFIX_PATH"] = str(prefix)
    environ["PATH"] = os.pathsep.join([str(prefix / "bin"), environ.get("PATH", os.defpath)])
    # An activated colcon workspace would put its own chimera_ros and generators first.
    environ.pop("COLCON_PREFIX_PATH", None)
    cmake = shutil.which("cmake", path=environ["PATH"])
    ninja = shutil.which("ninja", path=environ["PATH"])
    if cmake is None:
        raise BuildError(
            "cmake is missing: `make install` installs it from its wheel, Debian's package is cmake"
        )

    build_dir.mkdir(parents=True, exist_ok=True)
    previous = _manifest(build_dir)
    configure = [
        *(cmake, "-S", str(SOURCE), "-B", str(build_dir)),
        *(["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
        f"-DCMAKE_INSTALL_PREFIX={install_prefix}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DPython3_EXECUTABLE={python}",
        f"-DCHIMERA_INSTALL_ROOMS={'ON' if rooms else 'OFF'}",
        "-DCHIMERA_INSTALL_BIN=OFF",
        f"-DCHIMERA_SHEBANG={shebang}",
        "-DBUILD_TESTING=OFF",
    ]
    jobs = str(len(os.sched_getaffinity(0)))
    steps = [
        ("configure the build", configure),
        ("compile the messages", [cmake, "--build", str(build_dir), "--parallel", jobs]),
        ("install the compiled messages", [cmake, "--install", str(build_dir)]),
    ]
    output = ""
    for title, command in steps:
        done = subprocess.run(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        output += done.stdout
        if log_file is not None:
            log_file.write_text(output)
        if done.returncode != 0:
            raise BuildError(f"could not {title} (cmake exited with {done.returncode})", output)

    installed = _manifest(build_dir)
    # A message that was renamed or removed must not go on being importable.
    for stale in set(previous) - set(installed):
        if stale.is_relative_to(install_prefix):
            stale.unlink(missing_ok=True)
    # ament writes metadata of its own beside pip's; two distributions of one name confuse pip.
    for egg_info in {path.parent for path in installed if path.parent.name.endswith(".egg-info")}:
        shutil.rmtree(egg_info, ignore_errors=True)
    return [path for path in installed if not path.parent.name.endswith(".egg-info")]


def _manifest(build_dir: Path) -> list[Path]:
    try:
        return [Path(line) for line in (build_dir / "install_manifest.txt").read_text().splitlines()]
    except FileNotFoundError:
        return []
