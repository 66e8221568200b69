"""Run by test_ros_wire.py in a process of its own: a small swarm that says recognisable things, sealed.

Arguments: keystore directory, file to write the epoch's keys to. Ends at SIGTERM.
"""

import json
import signal
import sys
from pathlib import Path

import rclpy
from chimera_ros.msg import DroneTelemetry as TelemetryMessage
from chimera_ros.msg import LeaderHeartbeat as HeartbeatMessage
from chimera_ros.msg import SwarmCommand as CommandMessage
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from chimera_ros.flight.messages import CommandKind, DroneState, DroneTelemetry, LeaderHeartbeat, SwarmCommand
from chimera_ros.ros import SecureSession, Spinner, convert
from chimera_ros.stop_requests import StopRequests

PLACE = (1234.567891, -9876.543211, 444.333222111)
TARGET = (7777.123456, 8888.654321, 55.444333222)
PHASE = "recognisable_phase"
ANSWER = "recognisable answer of a service"


def main() -> None:
    """Talk until told to stop."""
    keystore, keys_file = sys.argv[1], Path(sys.argv[2])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    requests = StopRequests()
    requests.install()
    spinner = Spinner(requests=requests)
    sessions = {}
    for name in ("crypto_0", "leader_0", "drone_01"):
        node = rclpy.create_node(f"{name}_node", namespace="/chimera", start_parameter_services=False)
        spinner.add(node)
        sessions[name] = SecureSession(node, member=name, keystore=keystore)
    drone, leader = sessions["drone_01"], sessions["leader_0"]
    telemetry = drone.create_publisher(TelemetryMessage, "drone_01/telemetry")
    command = leader.create_publisher(CommandMessage, "leader/command")
    heartbeat = leader.create_publisher(HeartbeatMessage, "leader/heartbeat")
    latched = leader.create_publisher(HeartbeatMessage, "survey/latched", latched=True)
    plain = drone.node.create_publisher(TelemetryMessage, "plain", 10)
    leader.create_service(Trigger, "survey/ask", lambda request, sender: Trigger.Response(message=ANSWER))
    client = drone.create_client(Trigger, "survey/ask")
    heard = {"commands": 0, "telemetry": 0, "answers": 0}

    def count(what: str) -> None:
        heard[what] += 1

    drone.create_subscription(CommandMessage, "leader/command", lambda message, sender: count("commands"))
    leader.create_subscription(
        TelemetryMessage, "drone_01/telemetry", lambda message, sender: count("telemetry")
    )
    state = DroneTelemetry(
        "drone_01", 1, DroneState.HOLDING, position_enu_m=PLACE, reason="recognisable reason"
    )
    order = SwarmCommand(1, 1, CommandKind.GOTO, ("drone_01",), TARGET)
    beat = convert.heartbeat_to_msg(LeaderHeartbeat("leader_0", 1, 1, 1, phase=PHASE))

    def talk() -> None:
        plain.publish(
            convert.telemetry_to_msg(DroneTelemetry("plain", 1, DroneState.HOLDING, position_enu_m=(PLACE)))
        )
        telemetry.publish(convert.telemetry_to_msg(state))
        command.publish(convert.command_to_msg(order))
        heartbeat.publish(beat)
        latched.publish(beat)
        if client.service_is_ready():
            client.call_async(
                Trigger.Request(), 2.0, lambda reply: count("answers") if reply.response else None
            )
        secrets = set()
        for session in sessions.values():
            for epoch in session.host.context.sessions.open.values():
                if epoch._keys is not None:
                    secrets.update(key.hex() for key in epoch._keys.lanes)
        known = set(json.loads(keys_file.read_text())["keys"]) if keys_file.exists() else set()
        keys_file.with_suffix(".new").write_text(
            json.dumps({"keys": sorted(known | secrets), "heard": heard})
        )
        keys_file.with_suffix(".new").replace(keys_file)
        if heard["commands"] % 10 == 9 and sessions["crypto_0"].status()["key_server"]["packages_ready"]:
            sessions["crypto_0"].rotate()

    timer = drone.node.create_timer(0.05, talk)
    spinner.spin()
    timer.cancel()
    for session in sessions.values():
        session.close()
    spinner.close()


if __name__ == "__main__":
    signal.alarm(90)  # never outlives a broken test
    main()
