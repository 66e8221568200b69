"""The package's own bookkeeping: import rules, versions, prerequisites, interfaces, stamps."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import chimera_ros
from chimera_ros import swarm
from chimera_ros.flight.moderation_call import MAX_SEED
from chimera_ros.sitl.config import (
    DEFAULT_FIRST_PORT,
    DEFAULT_GCS_PORT,
    MAX_DRONES,
    OWN_PORT_OFFSET,
    SitlConfig,
)

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]


@pytest.fixture
def tools(monkeypatch):
    """The modules of tools/, which are no package."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


def test_every_room_has_an_import_rule():
    rooms = {path.parent.name for path in (ROOT / "chimera_ros").glob("*/__init__.py")}
    ruled = {
        name
        for contract in CONTRACTS
        for key in ("source_modules", "protected_modules")
        for name in contract.get(key, [])
    }
    # commands may import everything but nodes, which the last contract says about all.
    assert {f"chimera_ros.{room}" for room in rooms - {"commands"}} <= ruled


def test_rooms_that_exist_are_named_plainly_in_the_import_rules():
    text = (ROOT / "pyproject.toml").read_text()
    for room in set(re.findall(r'"chimera_ros\.(\w+)\.\*\*"', text)):
        assert not (ROOT / "chimera_ros" / room / "__init__.py").exists(), (
            f"write chimera_ros.{room} for chimera_ros.{room}.** in pyproject.toml: the room exists now, "
            "and the pattern leaves out its __init__.py"
        )


def test_versions_agree():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("version") == PROJECT["project"]["version"] == chimera_ros.__version__


# What pip alone installs, and what only pip's packages bring (tools/ros_venv.sh).
OF_PIP = {
    *("blake3", "cryptography", "fastcrc", "mavsdk", "mcap", "oqs", "ortools", "pymavlink", "qiskit"),
    *("qiskit_aer", "zstandard"),
}


def imported(*folders):
    """Top-level names of what the Python files below some folders import, inside functions too."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"chimera_ros"}


def declared(*kinds):
    """Dependencies of package.xml by kind, as the names that Python imports."""
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    return {element.text.removeprefix("python3-") for kind in kinds for element in package.findall(kind)}


def test_package_xml_names_what_is_imported_and_only_that():
    of_the_build = {"builtin_interfaces", "service_msgs", "rosidl_default_runtime"}
    assert imported("chimera_ros", "launch") - OF_PIP == declared("depend", "exec_depend") - of_the_build


def test_package_xml_names_what_tests_import():
    known = declared("depend", "exec_depend", "test_depend") | OF_PIP
    named = re.compile(r"(ros|launch|rcl|ament).*|.*_(msgs|srvs|interfaces)")
    assert {name for name in imported("test/ros") if named.fullmatch(name)} <= known


def test_package_xml_has_no_invented_address():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert not package.findall("url")


def test_the_simulator_takes_what_a_swarm_may_ask_of_it():
    # sitl/ knows nothing of swarms, so it states its limits itself.
    assert (swarm.FIRST_PORT.default, swarm.GCS_PORT.default) == (DEFAULT_FIRST_PORT, DEFAULT_GCS_PORT)
    assert swarm.DRONES.high == MAX_DRONES
    assert swarm.SEED.high == MAX_SEED
    assert swarm.FIRST_PORT.high + OWN_PORT_OFFSET == 65535
    for wind_m_s in (swarm.WIND_M_S.low, swarm.WIND_M_S.high):
        SitlConfig(drones=1, first_port=swarm.FIRST_PORT.high, gcs_port=0, wind_m_s=wind_m_s).check()


def test_every_interface_is_compiled():
    for kind, folder in (("msg", "msg"), ("srv", "srv")):
        module = importlib.import_module(f"chimera_ros.{folder}")
        for path in (ROOT / folder).glob(f"*.{kind}"):
            assert hasattr(module, path.stem), f"{path.name} is not compiled: make messages"


def test_executables_have_a_main():
    text = (ROOT / "CMakeLists.txt").read_text()
    names = re.search(r"foreach\(_executable ([^)]*)\)", text).group(1).split()
    special = dict(re.findall(r'_executable STREQUAL "(\w+)"\)\s+set\(CHIMERA_MODULE "([\w.]+)"\)', text))
    assert {"crypto", "leader", "follower", "telemetry_logger", "chimera"} <= set(names)
    for name in names:
        module = importlib.import_module(special.get(name, f"chimera_ros.nodes.{name}"))
        assert callable(module.main)


def test_missing_prerequisites_are_named_with_their_package(tools, tmp_path):
    missing = dict(tools("ros_build").missing_prerequisites({"PATH": str(tmp_path)}))
    assert {"g++", "gcc", "make"} <= set(missing.values())
    assert "a C++ compiler" in missing


def test_a_changed_message_is_compiled_again(tools, tmp_path, monkeypatch):
    install = tools("install")
    source = tmp_path / "source"
    (source / "msg").mkdir(parents=True)
    (source / "msg" / "A.msg").write_text("uint8 a\n")
    (source / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    monkeypatch.setattr(install, "SOURCE", source)
    monkeypatch.setattr(install, "MESSAGE_INPUTS", ("msg",))
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("version = 3.11.7\n")
    environment = install.Environment(tmp_path / "venv")
    before = environment.messages_hash("dependencies")
    assert environment.messages_hash("dependencies") == before
    assert environment.messages_hash("other dependencies") != before
    (source / "msg" / "A.msg").write_text("uint16 a\n")
    assert environment.messages_hash("dependencies") != before


def test_constraints_are_part_of_the_stamp(tools, tmp_path, monkeypatch):
    environment = tools("install").Environment(tmp_path)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    plain = environment.requirements_hash("base")
    monkeypatch.setenv("PIP_CONSTRAINT", str(ROOT / "tools" / "jazzy.constraints.txt"))
    assert environment.requirements_hash("base") != plain


def test_an_unknown_extra_is_refused():
    command = [sys.executable, str(ROOT / "tools" / "install.py"), "--extras", "quantun"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'quantun'" in done.stderr
    assert "quantum" in done.stderr
