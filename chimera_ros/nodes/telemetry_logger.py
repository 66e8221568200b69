"""Telemetry logger node: records all messages in plaintext and as received, and checks telemetry."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from chimera_ros import swarm
from chimera_ros.crypto.errors import CryptoError
from chimera_ros.flight.messages import DroneState
from chimera_ros.flight.plausibility import Anomaly, PlausibilityMonitor
from chimera_ros.msg import CommandAcks, DroneTelemetry, LeaderHeartbeat, SwarmCommands, Trajectory
from chimera_ros.node_parameters import LoggerParameters
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.records.audit import Auditor
from chimera_ros.records.flight_files import Decoders, FlightFiles, RecordError, SenderEvidence
from chimera_ros.records.flight_totals import write_totals
from chimera_ros.records.mcap_log import CHECKPOINT_TYPE, FlightRecorder, RecordLossMonitor
from chimera_ros.records.process_status import DroneStatus, LoggerStatus
from chimera_ros.ros import convert, names
from chimera_ros.ros.cdr import decode_checkpoint, decode_envelope
from chimera_ros.ros.endpoints import RawMessage
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import boot_time_s
from chimera_ros.ros.log import log
from chimera_ros.ros.schema import schema_text
from chimera_ros.ros.session import SecureSession, SessionConfig, host_config

STATUS_S = 0.5
MAX_FOR_TOTALS = 50_000  # messages, whose totals take a few seconds
NICE = 5  # niceness, for a lower priority than the control processes
DOUBT_REPEAT_S = 10.0  # between two alarms about the same anomaly and drone
CLOCK_LIMIT_S = 0.1  # largest error at which stamps are compared with swarm time
STATE_NAMES = {int(state): state.name.lower() for state in DroneState}


class LoggerNode(MemberNode[LoggerParameters]):
    """Node that records the channels of leader and drones, the checkpoints, and the keys to verify them.

    On closing it signs the totals of a record of at most `MAX_FOR_TOTALS` messages.
    """

    def __init__(self) -> None:
        super().__init__("telemetry_logger", LoggerParameters)
        self._recorder: FlightRecorder | None = None
        self._recorded_ns = 0
        self._record_loss = RecordLossMonitor()
        self._newest: dict[str, tuple[DroneTelemetry, float]] = {}
        self._plausibility = PlausibilityMonitor(())
        self._doubted_s: dict[tuple[str, Anomaly], float] = {}
        self._doubt_alarms: list[str] = []

    def setup(self) -> None:
        """Load keys, subscribe to the leader's and all drones' channels."""
        values = self.parameters
        self._session = SecureSession(
            self,
            member=values.member,
            keystore=values.keystore,
            passphrase=self.key_passphrase(),
            config=SessionConfig(host=host_config(keep_evidence=bool(values.record))),
            autostart=False,
        )
        if values.record:
            self._recorder = FlightRecorder(Path(values.record), namespace=self.swarm_namespace)
            schema = schema_text(CHECKPOINT_TYPE)
            self.session.on_checkpoint(lambda member, cdr: self._record_checkpoint(member, cdr, schema))
        watched: list[tuple[type, str]] = [
            (SwarmCommands, names.LEADER_COMMAND),
            (Trajectory, names.LEADER_TRAJECTORY),
            (LeaderHeartbeat, names.LEADER_HEARTBEAT),
        ]
        drones = [swarm.drone_name(number) for number in range(1, values.swarm_size + 1)]
        self._plausibility = PlausibilityMonitor(drones)
        for drone in drones:
            watched += [(CommandAcks, names.ack(drone)), (DroneTelemetry, names.telemetry(drone))]
        for message_type, channel in watched:
            self._watch(message_type, channel)

    def _watch(self, message_type: type, channel: str) -> None:
        type_name = names.type_name(message_type)
        schema = schema_text(type_name)
        self.session.create_subscription(
            message_type, channel, lambda raw: self._record(raw, schema), raw=True
        )
        if message_type is DroneTelemetry:
            self.session.create_subscription(message_type, channel, self._on_telemetry)

    def begin(self) -> None:
        """Join the swarm."""
        os.nice(NICE)
        self.session.start()
        self._status_timer = self.create_steady_timer(STATUS_S, self._report_status)

    def pause(self) -> None:
        """Stop reporting."""
        self.destroy_timer(self._status_timer)

    def close(self) -> None:
        """Leave the swarm, complete the files, sign their totals."""
        session = self._session
        self._record_evidence()
        super().close()
        if self._recorder is not None:
            status, self._recorder = self._recorder.close(), None
            if status.dropped:
                log(self, "error", f"{status.dropped} messages could not be recorded")
            if status.problem:
                if change := self._record_loss.change(status):  # else said in flight
                    log(self, "error", change)
            elif session is not None and 0 < status.opened <= MAX_FOR_TOTALS:
                self._sign_totals(session)
            elif status.opened:
                log(self, "info", "totals of this long record: run `chimera log totals`")

    def _sign_totals(self, session: SecureSession) -> None:
        folder = Path(self.parameters.record)
        try:
            files = FlightFiles(folder, Decoders(decode_envelope, decode_checkpoint))
            write_totals(folder / "totals.json", Auditor(files, session.authority), session.identity())
        except (OSError, RecordError, CryptoError) as error:
            log(self, "error", f"no totals of this flight: {error}")

    def _record(self, raw: RawMessage, schema: str) -> None:
        if self._recorder is not None:
            # Unique log times, by which readers pair a message with its envelope.
            self._recorded_ns = max(self._recorded_ns + 1, self.session.swarm_ns())
            opened, received_ns = raw.opened, self._recorded_ns
            self._recorder.write(
                raw.channel, raw.type_name, schema, opened.payload, opened.sent_ns, received_ns, opened.sender
            )
            self._recorder.write_sealed(raw.channel, raw.envelope_cdr, received_ns)

    def _record_checkpoint(self, member: str, cdr: bytes, schema: str) -> None:
        """Record a checkpoint. Called in the checkpoint thread."""
        session, recorder = self._session, self._recorder
        if session is not None and recorder is not None:
            recorder.write_checkpoint(member, cdr, schema, session.swarm_ns())

    def _record_evidence(self) -> None:
        """Record the blinding keys of checkpoint leaves, once per sender, epoch and lane."""
        session, recorder = self._session, self._recorder
        if session is None or recorder is None:
            return
        for item, sender in session.take_evidence():
            evidence = SenderEvidence(
                session.policy.swarm,
                item.entry.name,
                item.epoch,
                item.entry.slot,
                item.lane,
                item.transcript_hash,
                item.key_tag,
                item.blind_key,
                sender.certificate_der,
            )
            recorder.write_evidence(evidence.to_json(), session.swarm_ns())

    def _on_telemetry(self, message: DroneTelemetry, sender: str) -> None:
        if message.drone != sender:
            return
        now = boot_time_s()
        self._newest[sender] = (message, now)
        try:
            report = convert.telemetry_from_msg(message)
        except convert.ConversionError:
            self._plausibility.flag(sender, Anomaly.IMPOSSIBLE)
            doubts: tuple[Anomaly, ...] = (Anomaly.IMPOSSIBLE,)
        else:
            # Without a common clock only the stamps of one drone can be compared.
            known = self.session.clock_synchronised(CLOCK_LIMIT_S)
            swarm_ns = self.session.swarm_ns() if known else report.stamp_ns
            doubts = self._plausibility.check(report, now, swarm_ns)
        for doubt in doubts:
            if now - self._doubted_s.get((sender, doubt), -DOUBT_REPEAT_S) >= DOUBT_REPEAT_S:
                self._doubted_s[(sender, doubt)] = now
                self._doubt_alarms.append(f"implausible telemetry of {sender}: {doubt.value}")

    def _report_status(self) -> None:
        if self._session is None:
            return
        now = boot_time_s()
        rows = []
        for drone, (message, heard_s) in sorted(self._newest.items()):
            position = message.position_enu_m
            rows.append(
                DroneStatus(
                    drone,
                    state=STATE_NAMES.get(message.state, "unknown"),
                    error_m=message.tracking_error_m,
                    battery=message.battery_fraction,
                    epoch=message.epoch,
                    age_s=now - heard_s,
                    enu_m=(position.x, position.y, position.z),
                )
            )
        alarms, self._doubt_alarms = self._doubt_alarms, []
        recorded = 0
        if self._recorder is not None:
            self._record_evidence()
            self._recorder.tick()
            records = self._recorder.status()
            recorded = records.opened
            change = self._record_loss.change(records)
            if change:
                # No error: the supervisor makes one alarm of this status, and would make another of an error.
                log(self, "warning", change)
                alarms.append(change)
        doubts = {
            drone: {doubt.value: count for doubt, count in counts.items()}
            for drone, counts in sorted(self._plausibility.anomalies.items())
        }
        self.report(LoggerStatus(tuple(rows), recorded, self.parameters.record, doubts), alarms)


def main(args: list[str] | None = None) -> int:
    """Run the telemetry logger."""
    return run_node(LoggerNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
