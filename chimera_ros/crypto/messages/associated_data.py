"""Associated data of an envelope (AEAD additional data): every field that is not sealed."""

from __future__ import annotations

from ..encoding import fields, u16, u32
from ..primitives import labels
from ..wire import ENVELOPE_VERSION


def associated_data(
    swarm: str, transcript_hash: bytes, lane: int, slot: int, epoch: int, channel: str, type_name: str
) -> bytes:
    """The associated data of an envelope; a response appends `response_binding`."""
    return fields(
        labels.ENVELOPE_AAD,
        bytes((ENVELOPE_VERSION,)),
        swarm.encode(),
        transcript_hash,
        bytes((lane,)),
        u16(slot),
        u32(epoch),
        channel.encode(),
        type_name.encode(),
    )
