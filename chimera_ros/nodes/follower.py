"""Follower node: hosts drones, follows the leader within each drone's own limits, commands the autopilots."""

from __future__ import annotations

import queue
import sys

from rclpy.serialization import deserialize_message

from chimera_ros import swarm
from chimera_ros.autopilot.bridge import Bridge
from chimera_ros.autopilot.config import VehicleConfig
from chimera_ros.autopilot.connect import ConnectError, expand
from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.autopilot.watchdog import InterpreterWatchdog
from chimera_ros.crypto.effects import StopOrder
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.flight.effects import FlightAlarm, SendAck, SendOrder, SendSetpoint
from chimera_ros.flight.fallback import restricted
from chimera_ros.flight.follower.core import FollowerConfig, FollowerCore
from chimera_ros.flight.follower.shard import Effects, Shard
from chimera_ros.flight.limits import FlightEnvelope, OwnLimits
from chimera_ros.flight.messages import DroneState
from chimera_ros.flight.planning.mission_file import MissionError, load_mission
from chimera_ros.flight.planning.start_check import require_datum
from chimera_ros.flight.vehicle import Order, OrderKind, OrderResult
from chimera_ros.msg import CommandAcks, DroneTelemetry, LeaderHeartbeat, SwarmCommands, Trajectory
from chimera_ros.node_parameters import FollowerParameters
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.records.histogram import Histogram
from chimera_ros.records.process_status import FollowerStatus
from chimera_ros.ros import convert, names
from chimera_ros.ros.cdr import checked_payload
from chimera_ros.ros.endpoints import RawMessage
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import SetupError, boot_time_s, raised_at
from chimera_ros.ros.log import log
from chimera_ros.ros.session import SecureSession, SessionConfig, host_config

from .ack_sender import AckSender

CLOCK_LIMIT_S = 0.02  # largest clock error for arming
EXIT_LANDING_S = 3.0  # at exit, wait so long for the autopilots to accept LAND
STATUS_S = 0.5
LATE_CYCLES = 2.0
SWITCH_S = 0.0005  # switch interval of the interpreter


class FollowerNode(MemberNode[FollowerParameters]):
    """Runs the control cycle of its drones: `Shard` decides, `Bridge` commands the autopilots.

    A drone whose core fails lands in place; the others fly on.
    """

    def __init__(self) -> None:
        super().__init__("follower", FollowerParameters)
        self._bridge: Bridge | None = None
        self._acks: AckSender | None = None
        self._results: queue.SimpleQueue[tuple[str, OrderResult]] = queue.SimpleQueue()
        self._tracking_m = Histogram()
        self._latency_ms = Histogram()
        self._alarms: list[str] = []
        self._failed_drones: set[str] = set()
        self._exit_deadline_s: float | None = None
        self._exit_pending: set[str] = set()

    def setup(self) -> None:
        """Load the mission's limits and the keys, create cores and autopilot connections."""
        values = self.parameters
        try:
            mission = load_mission(values.mission)
            datum = require_datum(mission)
            envelope = FlightEnvelope.of_mission(
                mission.fence,
                OwnLimits(values.max_speed_m_s, values.max_height_m, values.max_distance_m),
            )
        except MissionError as error:
            raise SetupError(str(error)) from None
        except ValueError as error:
            raise SetupError(f"mission {values.mission}: {error}") from None
        self._names = [swarm.drone_name(number) for number in values.drones]
        cores = {}
        vehicles = []
        for number, drone in zip(values.drones, self._names, strict=True):
            config = FollowerConfig.for_swarm(
                drone, number - 1, values.swarm_size, envelope, allow_kill=values.allow_kill
            )
            cores[drone] = FollowerCore(config)
            try:
                url = expand(values.connect, number - 1).text
                vehicles.append(
                    VehicleConfig(
                        drone=drone,
                        url=url,
                        system_id=number,
                        kind=AutopilotKind(values.autopilot),
                        allow_arm=values.allow_arm,
                        allow_kill=values.allow_kill,
                    )
                )
            except (ConnectError, ValueError) as error:
                raise SetupError(str(error)) from None
        if any(vehicle.allow_arm and not vehicle.is_embedded_sitl for vehicle in vehicles):
            self._check_arming(vehicles, values.keystore)
        self._shard = Shard(cores)
        self._session = session = SecureSession(
            self,
            members=self._names,
            keystore=values.keystore,
            passphrase=self.key_passphrase(),
            config=SessionConfig(host=host_config(verify_checkpoints=values.verify_checkpoints)),
            autostart=False,
        )
        session.on_stop(self._on_stop)
        self._telemetry_publishers = {
            drone: session.create_publisher(DroneTelemetry, names.telemetry(drone), member=drone)
            for drone in self._names
        }
        self._ack_publishers = {
            drone: session.create_publisher(CommandAcks, names.ack(drone), member=drone)
            for drone in self._names
        }
        session.create_subscription(SwarmCommands, names.LEADER_COMMAND, self._on_command, raw=True)
        session.create_subscription(Trajectory, names.LEADER_TRAJECTORY, self._on_trajectory)
        session.create_subscription(LeaderHeartbeat, names.LEADER_HEARTBEAT, self._on_heartbeat)
        for number in range(1, values.swarm_size + 1):
            drone = swarm.drone_name(number)
            if drone not in cores:
                session.create_subscription(DroneTelemetry, names.telemetry(drone), self._on_neighbour)
        self._bridge = Bridge(
            vehicles, datum, boot_time_s, lambda drone, result: self._results.put((drone, result))
        )
        self._acks = AckSender()
        self._watchdog = InterpreterWatchdog(values.hang_limit_s)

    def _check_arming(self, vehicles: list[VehicleConfig], folder: str) -> None:
        """Raises SetupError where a vehicle other than the embedded SITL may not be armed: with a keystore of
        simulations, or a port that listens to other machines.
        """
        for vehicle in vehicles:
            if vehicle.parsed_url.open_to_network:
                raise SetupError(
                    f"allow_arm is refused with {vehicle.url}: MAVLink is not signed, so that whoever "
                    "reaches this port could forge the vehicle; listen on 127.0.0.1 or use a serial line"
                )
        if Keystore(folder).simulation_only:
            raise SetupError(
                f"allow_arm is refused with {folder}, a keystore for simulations: the authority's key lies "
                "in it without a passphrase; a drone needs no authority.key"
            )

    def begin(self) -> None:
        """Connect to the autopilots, join the swarm, start the control cycle."""
        assert self._bridge is not None
        try:
            self._bridge.start()
        except (ConnectError, OSError) as error:
            raise SetupError(str(error)) from None
        self.session.start()
        values = self.parameters
        self._telemetry_cycles = max(1, round(values.control_hz / values.telemetry_hz))
        self._cycle = 0
        self._controlled_s = boot_time_s()
        self._periodic = [
            self.create_steady_timer(1.0 / values.control_hz, self._control),
            self.create_steady_timer(STATUS_S, self._report_status),
        ]

    def pause(self) -> None:
        """Stop the control cycle; the autopilots' own failsafe takes over."""
        self._watchdog.disable()
        for timer in self._periodic:
            self.destroy_timer(timer)

    def close(self) -> None:
        """Close connections and session."""
        if self._acks is not None:
            self._acks.close()
            self._acks = None
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        super().close()

    def wipe(self) -> None:
        """Command HOLD to all autopilots, then erase the keys."""
        if self._bridge is not None:
            for drone in self._names:
                if self._bridge.state(drone).in_air:
                    self._bridge.submit(drone, Order(0, OrderKind.HOLD))
        super().wipe()

    def stop_requested(self, count: int) -> bool:
        """Stay while an orphaned leader lands the swarm, else land; True until autopilots have accepted."""
        if count == 1 and super().stop_requested(count):
            return True
        return self._land_airborne() and count == 1

    def leader_ended(self) -> None:
        """Land what is in the air, then end."""
        if not self._land_airborne():
            self.stop_spinning()

    def _land_airborne(self) -> bool:
        """Command LAND to airborne drones, once; True if there are any whose autopilot has to accept it."""
        if self._bridge is None or not self.active:
            return False
        if self._exit_deadline_s is None:
            self._exit_pending = {drone for drone in self._names if self._bridge.state(drone).in_air}
            for drone in self._exit_pending:
                self._bridge.submit(drone, Order(0, OrderKind.LAND, deadline_s=EXIT_LANDING_S))
            self._exit_deadline_s = boot_time_s() + EXIT_LANDING_S
        return bool(self._exit_pending)

    # Control cycle

    def _control(self) -> None:
        bridge, session = self._bridge, self._session
        if bridge is None or session is None:
            return
        now, swarm_ns = boot_time_s(), session.swarm_ns()
        self._controlled_s = now
        while not self._results.empty():
            drone, result = self._results.get_nowait()
            self._exit_pending.discard(drone)
            if result.order_id:
                self._perform(self._shard.on_order_result(drone, result, now, swarm_ns))
        if self._exit_deadline_s is not None:
            if not self._exit_pending or now > self._exit_deadline_s:
                self.stop_spinning()
            return
        airborne = False
        for drone in self._names:
            state = bridge.state(drone)
            airborne |= state.in_air
            if drone not in self._failed_drones:
                try:
                    self._perform(self._shard.step(drone, state, now, swarm_ns))
                except Exception as error:  # one drone's failure must not stop the others
                    self._land_after_failure(drone, error)
        bridge.tick(now)
        # If the interpreter hangs in flight the process ends, and the autopilot's own failsafe lands.
        if airborne != self._watchdog.enabled:
            self._watchdog.enable() if airborne else self._watchdog.disable()
        self._watchdog.pet()
        self._cycle += 1
        if self._cycle % self._telemetry_cycles == 0:
            self._send_telemetry(session, now, swarm_ns)

    def _land_after_failure(self, drone: str, error: Exception) -> None:
        """Command LAND to a drone whose core has failed; it gets no more setpoints."""
        assert self._bridge is not None
        self._failed_drones.add(drone)
        self._bridge.submit(drone, Order(0, OrderKind.LAND))
        reason = f"{type(error).__name__} at {raised_at(error)}"
        self._alarms.append(f"{drone}: flight core failed ({reason}); landing in place")

    def _run_if_late(self) -> None:
        """Run an overdue control cycle, so that a flood of messages cannot delay it."""
        if boot_time_s() - self._controlled_s > LATE_CYCLES / self.parameters.control_hz:
            self._control()

    def _send_telemetry(self, session: SecureSession, now: float, swarm_ns: int) -> None:
        offset_s = session.clock_offset_s
        for drone in self._names:
            if drone in self._failed_drones:
                continue  # the leader treats it as lost
            core = self._shard.cores[drone]
            blockers = []
            if not session.member_ready(drone):
                blockers.append("waiting for the keys of an epoch")
            if not session.clock_synchronised(CLOCK_LIMIT_S):
                blockers.append("waiting for clock synchronisation with the crypto node")
            core.set_blockers(blockers)
            telemetry = core.telemetry(
                now, swarm_ns, epoch=session.epoch(drone) or 0, clock_offset_s=offset_s
            )
            if telemetry.state == DroneState.FOLLOWING:
                self._tracking_m.add(telemetry.tracking_error_m)
            self._shard.on_neighbour(telemetry, now)
            self._telemetry_publishers[drone].publish(convert.telemetry_to_msg(telemetry))

    def _perform(self, effects: Effects) -> None:
        assert self._bridge is not None
        assert self._acks is not None
        for drone, effect in effects:
            if isinstance(effect, SendSetpoint):
                self._bridge.setpoint(drone, effect.setpoint)
            elif isinstance(effect, SendOrder):
                self._bridge.submit(drone, effect.order)
            elif isinstance(effect, SendAck):
                self._acks.put(self._ack_publishers[drone], effect.ack)
            elif isinstance(effect, FlightAlarm):
                self._alarms.append(effect.text)

    # Received messages

    def _on_command(self, raw: RawMessage) -> None:
        message = deserialize_message(checked_payload(raw.opened.payload), SwarmCommands)
        commands = [convert.command_from_msg(item) for item in message.commands]
        if raw.opened.epoch == 0:  # fallback
            mine = [restricted(command, raw.opened.addressed) for command in commands]
            commands = [command for command in mine if command is not None]
        for command in commands:
            swarm_ns = self.session.swarm_ns()
            effects = self._shard.on_command(command, raw.opened.sender, boot_time_s(), swarm_ns)
            # Setpoints first: an acknowledgement wakes the signing thread.
            setpoints = [effect for effect in effects if isinstance(effect[1], SendSetpoint)]
            self._perform(setpoints)
            if setpoints:
                self._latency_ms.add(max(0, self.session.swarm_ns() - raw.opened.sent_ns) * 1e-6)
            self._perform([effect for effect in effects if not isinstance(effect[1], SendSetpoint)])
        self._run_if_late()

    def _on_trajectory(self, message: Trajectory, sender: str) -> None:
        if message.drone not in self._shard.cores:
            return
        trajectory = convert.trajectory_from_msg(message)
        self._perform(self._shard.on_trajectory(trajectory, sender, boot_time_s(), self.session.swarm_ns()))

    def _on_heartbeat(self, message: LeaderHeartbeat, sender: str) -> None:
        heartbeat = convert.heartbeat_from_msg(message)
        self._perform(self._shard.on_heartbeat(heartbeat, sender, boot_time_s(), self.session.swarm_ns()))

    def _on_neighbour(self, message: DroneTelemetry, sender: str) -> None:
        self._run_if_late()
        if message.drone == sender:
            self._shard.on_neighbour(convert.telemetry_from_msg(message), boot_time_s())

    def _on_stop(self, order: StopOrder) -> None:
        now, swarm_ns = boot_time_s(), self.session.swarm_ns()
        self._alarms.append(f"{order.operator} ordered {order.level} for {', '.join(order.targets)}")
        self._perform(self._shard.on_stop(order.level, order.operator, order.targets, now, swarm_ns))

    # Status

    def _report_status(self) -> None:
        if self._session is None:
            return
        alarms, self._alarms = self._alarms[:50], []
        for text in alarms:
            log(self, "warning", text)
        self.report(FollowerStatus(tuple(self._names), self._latency_ms, self._tracking_m), alarms)


def main(args: list[str] | None = None) -> int:
    """Run a follower."""
    # By default MAVSDK's callbacks and the signing thread hold the GIL for 5 ms, which delays commands.
    sys.setswitchinterval(SWITCH_S)
    return run_node(FollowerNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
