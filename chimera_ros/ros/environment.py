"""Environment variables of ROS 2 and Fast DDS, checked before a library reads them.

Some values make these libraries end the process without an exception (a domain above 232, an RMW that is not
installed) or go on silently with another meaning (`5abc` is domain 5, a profile that cannot be read is passed
over). Nothing here imports rclpy. Not checked: the content of profiles and of SROS 2 enclaves.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.parsers import expat

from chimera_ros.command_line import unwritable_folder
from chimera_ros.formats import display

DOMAIN: Final = "ROS_DOMAIN_ID"
RANGE: Final = "ROS_AUTOMATIC_DISCOVERY_RANGE"
RMW: Final = "RMW_IMPLEMENTATION"
DEFAULT_RMW: Final = "rmw_fastrtps_cpp"

# DDSI-RTPS 9.6.2.3, well-known ports: base, gain per domain, offset and gain of a participant's unicast port.
_PORT_BASE, _DOMAIN_GAIN, _PARTICIPANT_OFFSET, _PARTICIPANT_GAIN = 7400, 250, 11, 2
_LAST_PORT = 65535
MAX_DOMAIN: Final = (_LAST_PORT - _PORT_BASE - _PARTICIPANT_OFFSET) // _DOMAIN_GAIN

LOOPBACK_PROCESSES: Final = 33  # that discovery reaches in LOCALHOST (rmw_fastrtps: 32 beside its own)
_RANGES = ("SUBNET", "LOCALHOST", "SYSTEM_DEFAULT")  # and OFF, with which no process finds another
_PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_FILES = (*_PROFILES, "FASTDDS_ENVIRONMENT_FILE")
_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
_TRANSPORT = re.compile(r"(DEFAULT|DEFAULTv6|SHM|UDPv4|UDPv6|LARGE_DATA|LARGE_DATAv6|P2P)(\?.*)?")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class EnvironmentFault:
    """A variable that keeps nodes from starting or from finding each other: what it is, and the remedy."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def environment_faults(environ: Mapping[str, str], participants: int = 1) -> list[EnvironmentFault]:
    """All that is wrong. `participants` is the number of ROS processes that will run on this machine."""
    found = [
        _domain(environ, participants),
        _discovery(environ, participants),
        middleware_fault(environ),
    ]
    found += [_file(environ, variable) for variable in _FILES]
    return [fault for fault in (*found, _transports(environ)) if fault is not None]


def middleware_fault(environ: Mapping[str, str]) -> EnvironmentFault | None:
    """What is wrong with RMW_IMPLEMENTATION, if anything."""
    text = environ.get(RMW) or DEFAULT_RMW
    library = f"lib{text}.so"
    if re.fullmatch(r"\w{1,100}", text) and any((f / library).is_file() for f in library_folders(environ)):
        return None
    return EnvironmentFault(
        f"{RMW} is {_shown(text)}, which is not installed", f"unset it to use {DEFAULT_RMW}"
    )


def log_fault(environ: Mapping[str, str]) -> EnvironmentFault | None:
    """Why ROS 2 cannot write its log files; nodes start without them (`log_files`)."""
    variable = next((name for name in ("ROS_LOG_DIR", "ROS_HOME") if environ.get(name)), "HOME")
    text = environ.get(variable, "") if variable != "HOME" else home_of(environ)
    if text is None:
        return EnvironmentFault(
            "HOME is not set, so that ROS 2 has no folder for its logs", "set HOME or ROS_LOG_DIR"
        )
    folder = Path(
        os.path.expanduser(text), {"ROS_LOG_DIR": "", "ROS_HOME": "log", "HOME": ".ros/log"}[variable]
    )
    why = unwritable_folder(folder)
    if not why:
        return None
    return EnvironmentFault(
        f"{variable} is {_shown(text)}, where ROS 2 cannot write its logs: {why}", "set ROS_LOG_DIR"
    )


def domain_of(environ: Mapping[str, str]) -> str:
    """The domain as shown to users."""
    return environ.get(DOMAIN) or "0"


def home_of(environ: Mapping[str, str]) -> str | None:
    """The user's folder: HOME, or that of the user database where it is not set; None if there is neither."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return home if home.startswith("/") else None


def library_folders(environ: Mapping[str, str]) -> list[Path]:
    """Folders of shared libraries."""
    prefixes = (*environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix)
    folders = [Path(prefix) / "lib" for prefix in prefixes if prefix]
    return folders + [Path(part) for part in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part]


def _domain(environ: Mapping[str, str], participants: int) -> EnvironmentFault | None:
    text = environ.get(DOMAIN, "")
    if not text:
        return None
    if not re.fullmatch(r"0|[1-9][0-9]{0,2}", text) or int(text) > MAX_DOMAIN:
        return EnvironmentFault(
            f"{DOMAIN} is {_shown(text)}", f"allowed are whole numbers from 0 to {MAX_DOMAIN}"
        )
    first = _PORT_BASE + _DOMAIN_GAIN * int(text) + _PARTICIPANT_OFFSET
    room = (_LAST_PORT - first) // _PARTICIPANT_GAIN + 1
    if participants <= room:
        return None
    return EnvironmentFault(
        f"{DOMAIN} is {text}, whose UDP ports are enough for {room} processes, not for {participants}",
        "choose a lower one",
    )


def _discovery(environ: Mapping[str, str], participants: int) -> EnvironmentFault | None:
    text = environ.get(RANGE, "")
    if text == "LOCALHOST" and participants > LOOPBACK_PROCESSES:
        return EnvironmentFault(
            f"{RANGE} is {text}: {LOOPBACK_PROCESSES} processes find each other then, not {participants}",
            "start fewer (--shards), or set it to SUBNET",
        )
    if not text or text in _RANGES:
        return None
    why = ", with which no process finds another" if text == "OFF" else ""
    return EnvironmentFault(f"{RANGE} is {_shown(text)}{why}", f"allowed are {', '.join(_RANGES)}")


def _file(environ: Mapping[str, str], variable: str) -> EnvironmentFault | None:
    """A file for Fast DDS, which passes over one that it cannot read."""
    text = environ.get(variable, "")
    if not text:
        return None
    try:
        if not stat.S_ISREG(os.stat(text).st_mode):
            why = "which is not a file"
        else:
            with open(text, "rb") as file:
                if variable in _PROFILES:
                    expat.ParserCreate().ParseFile(file)
            return None
    except OSError as error:
        why = f"which cannot be read ({error.strerror or error})"
    except expat.ExpatError as error:
        why = f"which is not XML ({error})"
    return EnvironmentFault(f"{variable} is {_shown(text)}, {why}", "unset it, or name a file of Fast DDS")


def _transports(environ: Mapping[str, str]) -> EnvironmentFault | None:
    text = environ.get(_TRANSPORTS)
    if text is None or _TRANSPORT.fullmatch(text):
        return None
    return EnvironmentFault(
        f"{_TRANSPORTS} is {_shown(text)}",
        "allowed are DEFAULT, DEFAULTv6, SHM, UDPv4, UDPv6, LARGE_DATA, LARGE_DATAv6 and P2P",
    )


def _shown(text: str) -> str:
    """A value for a sentence."""
    return f"'{display.line(text, _SHOWN)}'"
