"""Names of the entropy sources, as in parameters, command line options and reports."""

from __future__ import annotations

from typing import Final

OS: Final = "os"  # the operating system's random number generator: always in use
HARDWARE: Final = "hardware"
QRNG: Final = "qrng"
QKD: Final = "qkd"
SOURCE_NAMES: Final = (OS, HARDWARE, QRNG, QKD)
DEFAULT_SOURCES: Final = (OS, HARDWARE)  # each of the others costs a process with a simulator, about 100 MB
