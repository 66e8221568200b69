"""What launch starts is what `chimera swarm` starts."""

import argparse
import json

from chimera_ros.commands import describe
from chimera_ros.commands.swarm_setup import add_arguments, prepare

# Ports of its own, so that it does not matter whether a swarm flies on this machine.
OPTIONS = ["--drones=7", "--shards=2", "--first-port=27540", "--gcs-port=0", "--record=record"]


def test_describe_names_the_processes_of_chimera_swarm(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    prepared = prepare(parser.parse_args(OPTIONS))
    assert describe.main(OPTIONS) == 0
    described = json.loads(capsys.readouterr().out)["processes"]
    assert [process["name"] for process in described] == [child.name for child in prepared.processes]
    for process, child in zip(described, prepared.processes, strict=True):
        assert tuple(process["arguments"]) == tuple(child.argv[3:])
        assert process["environment"] == dict(child.env)
        assert process["is_node"] == (process["name"] != "sitl")
    assert {process["executable"] for process in described} == {
        "sitl",
        "crypto",
        "follower",
        "telemetry_logger",
        "path_moderation",
        "leader",
    }


def test_describe_says_what_is_wrong(capsys):
    assert describe.main(["--drones=0", *OPTIONS[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--drones is 0" in captured.err
