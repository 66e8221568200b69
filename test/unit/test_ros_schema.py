"""Schema texts hold everything a reader needs, for the package's own types and others'."""

import importlib
import re

import pytest

from chimera_ros import msg
from chimera_ros.ros.schema import SchemaError, schema_text

OWN = sorted(name for name in dir(msg) if name[0].isupper())


@pytest.mark.parametrize("name", OWN)
def test_every_own_message_is_complete(name):
    text = schema_text(f"chimera_ros/msg/{name}")
    message_type = getattr(msg, name)
    main, *others = text.split("=" * 80 + "\n")
    for field in message_type.get_fields_and_field_types():
        assert re.search(rf"^\S+\s+{field}\b", main, re.MULTILINE), field
    described = {re.match(r"MSG: (\S+)\n", other)[1] for other in others}
    for declared in message_type.get_fields_and_field_types().values():
        inner = re.search(r"(\w+)/(\w+)", declared)
        if inner:
            assert f"{inner[1]}/{inner[2]}" in described


def test_nested_types_come_once_and_recursively():
    text = schema_text("chimera_ros/msg/Trajectory")
    assert text.count("MSG: geometry_msgs/Vector3\n") == 1
    assert text.index("MSG: chimera_ros/TrajectoryKnot") < text.index("MSG: geometry_msgs/Point")
    assert "float64 x" in text.split("MSG: geometry_msgs/Point")[1]


@pytest.mark.parametrize("name", ["nav_msgs/msg/Odometry", "diagnostic_msgs/msg/DiagnosticArray"])
def test_other_packages(name):
    text = schema_text(name)
    package, _, base = name.split("/")
    declared = getattr(importlib.import_module(f"{package}.msg"), base).get_fields_and_field_types()
    assert all(field in text for field in declared)
    assert "MSG: builtin_interfaces/Time" in text


def test_halves_of_a_service():
    request = schema_text("chimera_ros/srv/ClockSync_Request")
    response = schema_text("chimera_ros/srv/ClockSync_Response")
    assert "t1_ns" in request
    assert "t2_ns" not in request
    assert "t3_ns" in response
    assert "---" not in response
    assert "MSG: chimera_ros/Trajectory\n" in schema_text("chimera_ros/srv/ModerateTrajectories_Request")


@pytest.mark.parametrize(
    "name", ["chimera_ros/msg/Nothing", "nothing_msgs/msg/X", "x", "../../etc/msg/passwd"]
)
def test_unknown_types_are_named(name):
    with pytest.raises(SchemaError, match=re.escape(name)):
        schema_text(name)
