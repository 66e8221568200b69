"""Check that readers written by others open every MCAP file of a record: `tools/check_record.py RECORD_DIR`.

Each file is read to its end by `mcap` (front to back and by its index, with checksums), `mcap-ros2-support`
and `rosbags`, which must decode every message and agree on how many there are; header, channels and schemas
must follow profile `ros2` (https://mcap.dev/spec/registry). Exit status 1 if anything differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader, SeekingReader, make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

QOS = "offered_qos_profiles"


def by_index(path: Path) -> int:
    """Messages that the index leads to, checksums verified."""
    with path.open("rb") as file:
        reader = SeekingReader(file, validate_crcs=True)
        found = sum(1 for _ in reader.iter_messages())
        summary = reader.get_summary()
    if summary is None or summary.statistics is None:
        raise ValueError("it has no statistics")
    if summary.statistics.message_count != found:
        raise ValueError(
            f"its statistics count {summary.statistics.message_count} messages, there are {found}"
        )
    return found


def front_to_back(path: Path) -> int:
    """Messages in the order of the file, checksums verified."""
    with path.open("rb") as file:
        return sum(1 for _ in NonSeekingReader(file, validate_crcs=True).iter_messages(log_time_order=False))


def by_mcap_ros2(path: Path) -> int:
    """Messages that mcap-ros2-support decodes, of all topics."""
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return sum(item.decoded_message is not None for item in reader.iter_decoded_messages())


def by_rosbags(*paths: Path) -> int:
    """Messages that rosbags decodes, of all topics."""
    with AnyReader(paths) as reader:
        return sum(
            reader.deserialize(data, connection.msgtype) is not None
            for connection, _, data in reader.messages()
        )


READERS: dict[str, Callable[[Path], int]] = {
    "mcap by index": by_index,
    "mcap front to back": front_to_back,
    "mcap-ros2-support": by_mcap_ros2,
    "rosbags": by_rosbags,
}


def profile_faults(path: Path) -> Iterator[str]:
    """Departures from profile `ros2`, one sentence each."""
    try:
        with path.open("rb") as file:
            reader = SeekingReader(file)
            profile, summary = reader.get_header().profile, reader.get_summary()
    except McapError as error:
        yield f"{path.name}: it has no summary: {error}"
        return
    if profile != "ros2" or summary is None:
        yield f"{path.name}: its profile is {profile!r}"
        return
    for schema in summary.schemas.values():
        if schema.encoding not in ("ros2msg", "ros2idl"):
            yield f"{path.name}: schema {schema.name} has encoding {schema.encoding!r}"
    for channel in summary.channels.values():
        if channel.message_encoding != "cdr":
            yield f"{path.name}: channel {channel.topic} has encoding {channel.message_encoding!r}"
        if QOS not in channel.metadata:
            yield f"{path.name}: channel {channel.topic} has no {QOS}"


def faults(record: Path) -> list[str]:
    """What is wrong with the MCAP files in this folder, one sentence each; none is a fault as well."""
    paths = sorted(record.glob("*.mcap"))
    found = [] if paths else [f"{record} holds no MCAP file"]
    whole = 0
    for path in paths:
        counts: dict[str, int] = {}
        for name, read in READERS.items():
            try:
                counts[name] = read(path)
            except Exception as error:  # whatever stops a reader is a fault of the file
                found.append(f"{path.name}: {name} ends with {type(error).__name__}: {error}")
        if len(set(counts.values())) > 1:
            found.append(f"{path.name}: the readers differ in the number of messages: {counts}")
        found += profile_faults(path)
        whole += max(counts.values(), default=0)
    if not found and by_rosbags(*paths) != whole:
        found.append(f"{record}: rosbags does not read {whole} messages from all files together")
    return found


def main(arguments: list[str]) -> int:
    """Prints the faults of each record; 0 if there are none."""
    if not arguments:
        print("usage: check_record.py RECORD_DIR ...", file=sys.stderr)
        return 2
    found = [fault for argument in arguments for fault in faults(Path(argument))]
    print("\n".join(found) or f"{', '.join(arguments)}: every reader agrees")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
