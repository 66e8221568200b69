"""Processes of `chimera swarm` as JSON, for launch; checked and prepared in the same way.

`launch/swarm.launch.py` runs this as an executable of the package, because `ros2 launch` runs on the system's
Python, which need not have this package's dependencies.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from chimera_ros.command_line import OneSentenceParser
from chimera_ros.commands.guard import guarded
from chimera_ros.commands.swarm_setup import Prepared, add_arguments, prepare
from chimera_ros.launcher.spec import processes
from chimera_ros.terminal.lines import print_json


def description(prepared: Prepared) -> dict[str, object]:
    """Processes in the order in which to start them: name, executable, arguments, environment."""
    nodes = {spec.name: spec for spec in processes(prepared.spec)}
    return {
        "run_dir": str(prepared.run_dir),
        "mission": prepared.mission_name,
        "processes": [
            {
                "name": child.name,
                "executable": nodes[child.name].executable if child.name in nodes else child.name,
                "arguments": list(child.argv[3:]),  # after `python -m module`
                "environment": dict(child.env),
                "is_node": child.name in nodes,
            }
            for child in prepared.processes
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a swarm with the options of `chimera swarm`, print its processes; returns the exit status."""
    parser = OneSentenceParser(prog="chimera swarm", description="print a swarm's processes as JSON")
    add_arguments(parser)

    def describe() -> int:
        print_json(description(prepare(parser.parse_args(argv))))
        return 0

    return guarded("chimera swarm", describe)


if __name__ == "__main__":
    sys.exit(main())
