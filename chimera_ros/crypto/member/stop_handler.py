"""Operator stops: signed for hosted operators, verified and acknowledged for hosted drones.

They need neither an epoch nor a leader.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..effects import Effect, SecurityAlarm, Send, StopAcked, StopOrder
from ..errors import ClockTrouble, Rejected, RejectReason
from ..messages.body import signed
from ..messages.stop import Stop, StopLevel, StopReceipt, check_age, make_stop
from ..primitives.suite import digest
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage
from .context import MemberContext


class StopHandler:
    """Ages are judged by the crypto node's time where it is heard, and by the own wall clock too, unless the
    stop ends a flight in the air: a crypto node with a wrong clock must not make every stop stale, and
    setting a drone's clock back yields no more than a hold or a landing that it never received.
    """

    def __init__(self, context: MemberContext) -> None:
        self._context = context
        self._stops: dict[str, tuple[bytes, ControlMessage]] = {}  # by drone: digest, receipt of its last

    def sign(self, operator: str, level: str, targets: Sequence[str], wall_ns: int) -> ControlMessage:
        """A stop signed by a hosted operator; its counter is stored first."""
        member = self._context.members[operator]
        if member.role is not Role.OPERATOR:
            raise Rejected(RejectReason.ROLE, f"{operator} is no operator")
        counter = member.next_stop_counter()
        message = make_stop(member.identity, counter, level, targets, wall_ns)
        member.save(stop_counter=counter)
        member.certificate_at = float("-inf")  # sent with the next tick: a stop must not wait for it
        return message

    def on_stop(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """A stop from the network, for hosted drones. Raises Rejected."""
        drones = [member for member in self._context.members.values() if member.role is Role.DRONE]
        if not drones:
            return []
        stop = Stop.parse(message.parts[0], self._context.trust.swarm)
        addressed = [member for member in drones if not stop.targets or member.name in stop.targets]
        if not addressed:
            raise Rejected(RejectReason.NOT_ADDRESSED)
        operator = self._context.valid_signer(stop.operator, message, wall_ns)
        if operator.role is not Role.OPERATOR:
            raise Rejected(RejectReason.ROLE, f"{operator.name} is no operator")
        if any(stop.operator in member.state.evictions for member in drones):
            raise Rejected(RejectReason.EVICTED, operator.name)
        fresh = [m for m in addressed if stop.counter > m.state.operator_counters.get(operator.name, 0)]
        try:
            at_ns = self._check_time(stop.sent_ns, wall_ns, own=stop.level is not StopLevel.KILL)
        except ClockTrouble as refusal:
            if not fresh:
                raise
            raise self._context.attach_signer(refusal, operator, message, now) from None
        repeated = digest(*message.parts)
        receipts: list[Effect] = [
            Send(self._stops[member.name][1])
            for member in addressed
            if member.name in self._stops and self._stops[member.name][0] == repeated
        ]
        if not fresh:
            if receipts:
                return receipts  # a retransmission; the acknowledgement may have been lost
            raise Rejected(RejectReason.STALE, f"stop {stop.counter} of {operator.name}")
        self._context.check_signature(operator, message, now)
        for member in fresh:
            trouble = member.save_stop(operator.name, stop.counter)
            if trouble is not None:
                receipts.append(SecurityAlarm("error", str(trouble)))
            receipt = StopReceipt(
                self._context.trust.swarm, stop.operator, stop.counter, member.identity.fingerprint, at_ns
            )
            ack = signed(ControlKind.STOP_ACK, receipt.encode(), member.identity)
            self._stops[member.name] = (repeated, ack)
            receipts.append(Send(ack))
        names = tuple(member.name for member in fresh)
        return [StopOrder(operator.name, stop.level.word, names, stop.counter), *receipts]

    def _check_time(self, sent_ns: int, wall_ns: int, own: bool) -> int:
        """The time by which the age is valid: `wall_ns`, or, if `own` permits it, the own clock's.

        Raises ClockTrouble of the first check.
        """
        limits = self._context.limits
        try:
            check_age(sent_ns, wall_ns, limits.stop_life_s, limits.clock_ahead_s)
        except ClockTrouble as trouble:
            if not own:
                raise
            own_ns = self._context.wall_ns
            try:
                check_age(sent_ns, own_ns, limits.stop_life_s, limits.clock_ahead_s)
            except ClockTrouble:
                raise trouble from None
            return own_ns
        return wall_ns

    def on_receipt(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """An acknowledgement from the network, for hosted operators. Raises Rejected."""
        operators = {
            member.identity.fingerprint: member
            for member in self._context.members.values()
            if member.role is Role.OPERATOR
        }
        if not operators:
            return []
        receipt = StopReceipt.parse(message.parts[0], self._context.trust.swarm)
        operator = operators.get(receipt.operator)
        if operator is None:
            raise Rejected(RejectReason.NOT_ADDRESSED)
        # An old receipt must not be taken for that of a stop that was lost.
        self._check_time(receipt.sent_ns, wall_ns, own=True)
        drone = self._context.valid_signer(receipt.drone, message, wall_ns)
        if drone.role is not Role.DRONE:
            raise Rejected(RejectReason.ROLE)
        self._context.check_signature(drone, message, now)
        return [StopAcked(drone.name, operator.name, receipt.counter)]
