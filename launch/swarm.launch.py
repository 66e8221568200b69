"""Starts what `chimera swarm` starts, from the same description (chimera_ros/launcher/spec.py).

ros2 launch chimera_ros swarm.launch.py drones:=20 autopilot:=embedded
ros2 launch chimera_ros swarm.launch.py drones:=3 autopilot:=px4 arm:=true

The description is printed by the package's executable `describe`, in a process of its own: this file runs on
the Python of `ros2`, the nodes on the one that built the package, and only that one has what they need.
"""

import json
import os
import signal
import subprocess

from ament_index_python.packages import get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown, matches_action
from launch.events.process import SignalProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

PACKAGE = "chimera_ros"

# Launch argument: (default, description). An empty value stands for the default of `chimera swarm`, whose
# options these are: `chimera swarm --help` shows defaults and ranges.
VALUES = {
    "drones": ("", "number of drones"),
    "mission": ("", "mission file, or the name of a shipped one"),
    "autopilot": ("embedded", "kind of autopilot, see `chimera swarm --help`"),
    "connect": ("", "MAVSDK URL per drone, for example udpin://127.0.0.1:{14540+i}"),
    "keystore": ("", "identities; empty is a keystore for simulations, made once"),
    "record": ("", "folder for records; empty is a new one below runs/"),
    "shards": ("", "follower processes; empty is one per five drones"),
    "seed": ("", "seed of the embedded simulation"),
    "wind": ("", "mean wind of the embedded simulation, m/s"),
    "rotation": ("", "time between key rotations, s"),
    "entropy": ("", "what goes into seeds: of os,hardware,qrng,qkd"),
    "standbys": ("", "standby crypto nodes"),
    "first_port": ("", "first MAVLink port of the embedded simulation"),
    "gcs_port": ("", "ground-station port of the embedded simulation, 0 for none"),
}
SWITCHES = {
    "arm": ("false", "true: motors of anything but the embedded simulation may start"),
    "allow_kill": ("false", "true: an operator's stop may cut motors in flight"),
}
AUTOSTART = ("true", "false: nodes wait unconfigured for their lifecycle transitions")

# Processes without which there is no flight; the others are started again, as `chimera swarm` does.
VITAL = ("leader", "sitl")
RESPAWN_S = 1.0
LANDING_S = "75"  # after the first Ctrl-C: time for the supervised landing before launch insists
SHIELD = """/bin/sh -c 'trap "" INT; exec "$0" "$@"'"""  # a process started so ignores SIGINT


def start(context, *_args, **_kwargs):
    """Ask `describe` for the processes and turn each into an action."""
    prefix = get_package_prefix(PACKAGE)
    command = [os.path.join(prefix, "lib", PACKAGE, "describe")]
    for name in VALUES:
        if value := LaunchConfiguration(name).perform(context):
            command.append(f"--{name.replace('_', '-')}={value}")
    for name in SWITCHES:
        if _is_true(name, LaunchConfiguration(name).perform(context)):
            command.append(f"--{name.replace('_', '-')}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with status {done.returncode}")
    description = json.loads(done.stdout)
    autostart = _is_true("autostart", LaunchConfiguration("autostart").perform(context))
    actions = [LogInfo(msg=f"mission {description['mission']}, records in {description['run_dir']}")]
    processes = [_action(prefix, process, autostart) for process in description["processes"]]
    return actions + processes + _end_in_order(processes)


def _end_in_order(processes):
    """Handlers: after the leader, which first lands the swarm, the other nodes end, then the simulation."""
    leader = next(action for action in processes if action.vital and isinstance(action, Node))
    others = {action for action in processes if not action.vital}
    simulations = [action for action in processes if action.vital and not isinstance(action, Node)]
    ended = set()

    def terminate(actions):
        return [
            EmitEvent(
                event=SignalProcess(signal_number=signal.SIGTERM, process_matcher=matches_action(action))
            )
            for action in actions
        ]

    def after_leader(_event, _context):
        return terminate(others - ended)

    def after_other(event, context):
        if context.is_shutdown:  # else it is started again
            ended.add(event.action)
        return terminate(simulations) if ended == others else None

    handlers = [OnProcessExit(target_action=leader, on_exit=after_leader)]
    handlers += [OnProcessExit(target_action=action, on_exit=after_other) for action in others]
    return [RegisterEventHandler(handler) for handler in handlers]


def _action(prefix, process, autostart):
    name, vital = process["name"], process["name"] in VITAL
    common = {
        "additional_env": process["environment"],
        "output": "both",
        "sigterm_timeout": LANDING_S,
        "respawn": not vital,
        "respawn_delay": RESPAWN_S,
        "on_exit": [EmitEvent(event=Shutdown(reason=f"{name} has ended"))] if vital else None,
        # Only the leader takes a Ctrl-C: it lands the swarm, and needs all the others for that.
        "prefix": None if name == "leader" else SHIELD,
    }
    if process["is_node"]:
        arguments = list(process["arguments"])
        if not autostart:
            arguments += ["-p", "autostart:=false"]
        action = Node(
            package=PACKAGE,
            executable=process["executable"],
            exec_name=name,
            arguments=arguments,
            **common,
        )
    else:
        executable = os.path.join(prefix, "lib", PACKAGE, process["executable"])
        action = ExecuteProcess(cmd=[executable, *process["arguments"]], name=name, **common)
    action.vital = vital
    return action


def _is_true(name, text):
    if text.lower() not in ("true", "false"):
        raise RuntimeError(f"launch argument {name} is {text!r}; allowed are true and false")
    return text.lower() == "true"


def generate_launch_description():
    """Launch arguments, and the swarm that follows from them."""
    declared = {**VALUES, **SWITCHES, "autostart": AUTOSTART}
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in declared.items()
            ),
            OpaqueFunction(function=start),
        ]
    )
