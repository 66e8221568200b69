"""Starts what `chimera swarm` starts, from the same description (chimera_ros/launcher/spec.py).

ros2 launch chimera_ros swarm.launch.py drones:=20 autopilot:=embedded
ros2 launch chimera_ros swarm.launch.py drones:=3 autopilot:=px4 arm:=true

The description is printed by the package's program `describe`, in a process of its own: this file runs on
the Python of `ros2`, the nodes on the one that built the package, and only that one has what they need. It
checks all arguments and the parameter file before it creates anything.

Ending: the leader lands the swarm, and needs all the others for that. They ignore what a terminal sends, are
ended in order after the leader, and notice when this process is gone (docs/ros-tools.md).
"""

import json
import os
import re
import signal
import subprocess
import sys

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnProcessStart, OnShutdown
from launch.events import Shutdown, matches_action
from launch.events.process import SignalProcess
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from launch import LaunchDescription

PACKAGE = "chimera_ros"

# Launch argument: (default, description). These are options of `chimera swarm`, whose ranges
# `chimera swarm --help` shows. An empty default is computed, as the description says.
OPTIONS = {
    "namespace": ("chimera", "ROS namespace of the swarm, below the pushed one unless it begins with /"),
    "drones": ("20", "number of drones"),
    "mission": ("antipodal_swap", "mission file, or the name of a shipped one"),
    "autopilot": ("embedded", "kind of autopilot"),
    "connect": (
        "",
        "MAVSDK URL per drone, as udpin://127.0.0.1:{14540+i}; empty: the autopilot's usual one",
    ),
    "keystore": ("", "folder of identities; empty: a keystore for simulations, made once"),
    "key_passphrase_file": ("", "first line decrypts the members' keys; empty: credential of systemd"),
    "record": ("", "folder for records; empty: a new one below runs/"),
    "shards": ("", "follower processes; empty: one per five drones, four at most"),
    "seed": ("1", "seed of the embedded simulation"),
    "wind": ("0", "mean wind of the embedded simulation, m/s"),
    "rotation": ("60", "time between key rotations, s"),
    "entropy": ("os,hardware", "what goes into seeds: of os,hardware,qrng,qkd"),
    "qkd_eavesdropper": ("0", "share of simulated photons that are intercepted"),
    "standbys": ("1", "standby crypto nodes"),
    "ready_timeout": ("60", "time for every drone to become ready, s"),
    "first_port": ("15540", "first MAVLink port of the embedded simulation"),
    "gcs_port": ("14550", "ground-station port of the embedded simulation, 0 for none"),
}
SWITCHES = {
    "no_record": ("false", "record no MCAP files"),
    "arm": ("false", "motors of anything but the embedded simulation may start"),
    "allow_kill": ("false", "an operator's stop may cut motors in flight"),
}
# Not options of `chimera swarm`.
OWN = {
    "autostart": ("true", "false: nodes wait unconfigured for `ros2 lifecycle`; needs expose_services"),
    "expose_services": ("false", "bench only: lifecycle and parameter services, which anyone can call"),
    "log_level": ("info", "log level of all nodes"),
}
PARAMS_FILE = ("params_file", "ROS parameter file; launch arguments take precedence over it")
TRUE_FALSE = ("true", "false", "True", "False")
CHOICES = {
    "autopilot": ("embedded", "px4", "ardupilot"),
    "log_level": ("debug", "info", "warn", "error", "fatal"),
    **dict.fromkeys((*SWITCHES, "autostart", "expose_services"), TRUE_FALSE),
}
# What `ros2 launch` itself takes as an argument.
OF_LAUNCH = ("launch-prefix", "launch-prefix-filter", "sigterm_timeout", "sigkill_timeout", "emulate_tty")

# Processes without which there is no flight; the others are started again, as `chimera swarm` does.
VITAL = ("leader", "sitl")
RESPAWN_S = 1.0
RESPAWNS = 5
LANDING_S = "75"  # after the first Ctrl-C: time for the supervised landing before launch insists
ENDING_S = "20"  # then: time for the drones of a leader that was ended to land in place
# Signals of a terminal that a process ignores. The leader takes a Ctrl-C: a second one ends it at once.
IGNORED = "INT HUP QUIT TSTP"
IGNORED_BY_LEADER = "TSTP"


def remember_given(context, given):
    """Note the launch arguments that were given, before the declarations add their defaults."""
    given.update(name for name in (*OPTIONS, PARAMS_FILE[0]) if name in context.launch_configurations)


def start(context, given):
    """Ask `describe` for the processes and turn each into an action."""
    values = context.launch_configurations
    refuse_unknown(context.argv)
    switches = {name: values[name].lower() == "true" for name in (*SWITCHES, "autostart", "expose_services")}
    if not switches["autostart"] and not switches["expose_services"]:
        raise RuntimeError(
            "autostart:=false needs expose_services:=true: nothing else could start the nodes (bench only)"
        )
    namespace = make_namespace_absolute(prefix_namespace(values.get("ros_namespace"), values["namespace"]))
    prefix = get_package_prefix(PACKAGE)
    command = [os.path.join(prefix, "libexec", PACKAGE, "describe"), f"--namespace={namespace}"]
    options = [name for name in OPTIONS if name in given - {"namespace"} and values[name]]
    command += [f"--{name.replace('_', '-')}={values[name]}" for name in options]
    command += [f"--{name.replace('_', '-')}" for name in SWITCHES if switches[name]]
    if "params_file" in given:
        command.append(f"--params-file={values['params_file']}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with status {done.returncode}")
    description = json.loads(done.stdout)
    notes = [
        f"mission {description['mission']} in {namespace}, records in {description['run_dir']}",
        *done.stderr.splitlines(),
        *description["notes"],
    ]
    if switches["expose_services"]:
        notes.append("expose_services: anyone on this network can change state and parameters of the nodes")
    common = {name: switches[name] for name in ("autostart", "expose_services")}
    processes = [_action(context, prefix, namespace, process, common) for process in description["processes"]]
    # The handlers first, so that they see every start.
    return [LogInfo(msg=note) for note in notes] + _end_in_order(processes) + processes


def refuse_unknown(argv):
    """Raise an error for a misspelt argument, unless another launch file has included this one."""
    if not any(os.path.basename(word) == os.path.basename(__file__) for word in sys.argv):
        return
    known = (*OPTIONS, *SWITCHES, *OWN, PARAMS_FILE[0])
    for word in argv:
        name = word.split(":=")[0]
        if name not in known + OF_LAUNCH:
            raise RuntimeError(f"there is no launch argument {name}:=; the arguments are {', '.join(known)}")


def _action(context, prefix, namespace, process, switches):
    name, vital = process["name"], process["name"] in VITAL
    executable = os.path.join(prefix, "lib", PACKAGE, process["executable"])
    common = {
        # Nodes watch this process: chimera_ros/parent_watch.py.
        "additional_env": {**process["environment"], "CHIMERA_LAUNCH_PID": str(os.getpid())},
        "output": "both",
        "sigterm_timeout": LANDING_S,
        "sigkill_timeout": ENDING_S,
        "respawn": not vital,
        "respawn_delay": RESPAWN_S,
        "respawn_max_retries": RESPAWNS,
        "on_exit": [EmitEvent(event=Shutdown(reason=f"{name} has ended"))] if vital else None,
        "prefix": _shield(context, name, executable),
    }
    if process["is_node"]:
        parameters = {
            key: ParameterValue(value, value_type=str) if isinstance(value, str) else value
            for key, value in {**process["parameters"], **switches}.items()
        }
        action = Node(
            package=PACKAGE,
            executable=process["executable"],
            namespace=namespace,
            name=name,
            exec_name=name,
            parameters=[context.launch_configurations["params_file"], parameters],
            ros_arguments=["--log-level", context.launch_configurations["log_level"]],
            **common,
        )
    else:
        action = ExecuteProcess(cmd=[executable, *process["arguments"]], name=name, **common)
    action.vital = vital
    return action


def _shield(context, name, executable):
    """A prefix with which a process ignores what a terminal sends; `--launch-prefix` goes after it."""
    ignored = IGNORED_BY_LEADER if name == "leader" else IGNORED
    shield = f"""/bin/sh -c 'trap "" {ignored}; exec "$0" "$@"'"""
    values = context.launch_configurations
    users, which = values.get("launch-prefix", ""), values.get("launch-prefix-filter", "")
    return f"{shield} {users}" if re.match(which, os.path.basename(executable)) else shield


def _end_in_order(processes):
    """Handlers: first the leader ends, which lands the swarm; then the other nodes, then the simulation."""
    leader = next(action for action in processes if action.vital and isinstance(action, Node))
    simulations = {action for action in processes if action.vital and not isinstance(action, Node)}
    others = {*processes} - simulations - {leader}
    running, signalled = set(), set()

    def send(number, actions):
        return [
            EmitEvent(event=SignalProcess(signal_number=number, process_matcher=matches_action(action)))
            for action in actions
        ]

    def end():
        if leader in running:
            # In a terminal launch leaves SIGINT to the terminal, which has not sent it where launch alone was
            # signalled. SIGHUP requests the landing, and never counts as a second Ctrl-C.
            return send(signal.SIGHUP, [leader])
        chosen = (others & running or simulations & running) - signalled
        signalled.update(chosen)
        return send(signal.SIGTERM, chosen)

    def on_start(event, context):
        running.add(event.action)
        return end() if context.is_shutdown else None

    def on_exit(event, context):
        running.discard(event.action)
        return end() if context.is_shutdown or event.action is leader else None

    handlers = [OnShutdown(on_shutdown=lambda _event, _context: end())]
    for action in processes:
        handlers.append(OnProcessStart(target_action=action, on_start=on_start))
        handlers.append(OnProcessExit(target_action=action, on_exit=on_exit))
    return [RegisterEventHandler(handler) for handler in handlers]


def generate_launch_description():
    """Launch arguments, and the swarm that follows from them."""
    name, description = PARAMS_FILE
    params = os.path.join(get_package_share_directory(PACKAGE), "config", "params.yaml")
    declared = {**OPTIONS, **SWITCHES, **OWN, name: (params, description)}
    given = set()
    return LaunchDescription(
        [
            OpaqueFunction(function=remember_given, args=[given]),
            *(
                DeclareLaunchArgument(
                    name, default_value=default, description=text, choices=CHOICES.get(name)
                )
                for name, (default, text) in declared.items()
            ),
            OpaqueFunction(function=start, args=[given]),
        ]
    )
