"""PX4 parameters of the simulated autopilot: names, types, defaults, and their MAVLink encoding.

PX4 puts an int32 into the float of PARAM_VALUE byte by byte (MAV_PROTOCOL_CAPABILITY_PARAM_ENCODE_BYTEWISE).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

TYPE_INT32 = 6
TYPE_REAL32 = 9

Value = int | float


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A parameter: default (its Python type decides the MAVLink type) and range."""

    default: Value
    low: float
    high: float


SPECS: dict[str, ParameterSpec] = {
    "BAT1_N_CELLS": ParameterSpec(4, 1, 14),
    "BAT_CRIT_THR": ParameterSpec(0.07, 0.0, 0.5),
    "BAT_EMERGEN_THR": ParameterSpec(0.05, 0.0, 0.5),
    "BAT_LOW_THR": ParameterSpec(0.15, 0.0, 0.5),
    "CAL_ACC0_ID": ParameterSpec(1310988, 0, 2**31 - 1),
    "CAL_GYRO0_ID": ParameterSpec(1310988, 0, 2**31 - 1),
    "CAL_MAG0_ID": ParameterSpec(197388, 0, 2**31 - 1),
    "COM_ARM_WO_GPS": ParameterSpec(0, 0, 1),
    "COM_DISARM_LAND": ParameterSpec(2.0, -1.0, 60.0),
    "COM_DISARM_PRFLT": ParameterSpec(10.0, -1.0, 600.0),
    "COM_DL_LOSS_T": ParameterSpec(5, 1, 300),
    "COM_LOW_BAT_ACT": ParameterSpec(3, 0, 3),
    "COM_OBL_RC_ACT": ParameterSpec(4, 0, 7),
    "COM_OF_LOSS_T": ParameterSpec(1.0, 0.0, 60.0),
    "COM_RCL_EXCEPT": ParameterSpec(4, 0, 31),
    "COM_RC_IN_MODE": ParameterSpec(4, 0, 4),
    "COM_SPOOLUP_TIME": ParameterSpec(1.0, 0.0, 30.0),
    "GF_ACTION": ParameterSpec(2, 0, 5),
    "GF_MAX_HOR_DIST": ParameterSpec(0.0, 0.0, 100000.0),
    "GF_MAX_VER_DIST": ParameterSpec(0.0, 0.0, 100000.0),
    "MAV_COMP_ID": ParameterSpec(1, 1, 250),
    "MAV_SYS_ID": ParameterSpec(1, 1, 250),
    "MAV_TYPE": ParameterSpec(2, 0, 22),
    "MIS_TAKEOFF_ALT": ParameterSpec(2.5, 0.5, 1000.0),
    "MPC_ACC_HOR": ParameterSpec(4.0, 1.0, 10.0),
    "MPC_LAND_ALT2": ParameterSpec(4.0, 0.5, 50.0),
    "MPC_LAND_SPEED": ParameterSpec(0.7, 0.3, 2.0),
    "MPC_TKO_SPEED": ParameterSpec(1.5, 0.5, 5.0),
    "MPC_XY_CRUISE": ParameterSpec(5.0, 0.5, 12.0),
    "MPC_XY_VEL_MAX": ParameterSpec(12.0, 0.5, 20.0),
    "MPC_Z_VEL_MAX_DN": ParameterSpec(3.0, 0.5, 4.0),
    "MPC_Z_VEL_MAX_UP": ParameterSpec(4.0, 0.5, 8.0),
    "MPC_Z_V_AUTO_DN": ParameterSpec(1.5, 0.5, 4.0),
    "MPC_Z_V_AUTO_UP": ParameterSpec(3.0, 0.5, 8.0),
    "NAV_ACC_RAD": ParameterSpec(2.0, 0.05, 200.0),
    "NAV_DLL_ACT": ParameterSpec(3, 0, 6),
    "NAV_RCL_ACT": ParameterSpec(2, 1, 6),
    "RTL_DESCEND_ALT": ParameterSpec(5.0, 0.0, 100.0),
    "RTL_LAND_DELAY": ParameterSpec(0.0, -1.0, 60.0),
    "RTL_RETURN_ALT": ParameterSpec(15.0, 0.0, 1000.0),
    "SYS_AUTOSTART": ParameterSpec(10040, 0, 9999999),
}
NAMES = sorted(SPECS)


class Parameters:
    """The parameters of one vehicle; values keep their type and stay in range."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {name: spec.default for name, spec in SPECS.items()}

    def __getitem__(self, name: str) -> float:
        return float(self._values[name])

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def set(self, name: str, value: float) -> bool:
        """Store a value; False, and nothing changed, if the name is unknown or the value out of range."""
        spec = SPECS.get(name)
        if spec is None or not math.isfinite(value) or not spec.low <= value <= spec.high:
            return False
        self._values[name] = round(value) if isinstance(spec.default, int) else float(value)
        return True

    def encoded(self, name: str) -> tuple[float, int]:
        """The float that carries the value in PARAM_VALUE, and its MAVLink type."""
        value = self._values[name]
        if isinstance(value, int):
            return struct.unpack("<f", struct.pack("<i", value))[0], TYPE_INT32
        return value, TYPE_REAL32

    def set_encoded(self, name: str, carried: bytes, kind: int) -> bool:
        """Store the value in the four bytes of PARAM_SET's float, read as `kind`; False if refused."""
        spec = SPECS.get(name)
        expected = TYPE_INT32 if spec is not None and isinstance(spec.default, int) else TYPE_REAL32
        if spec is None or kind != expected:
            return False
        return self.set(name, struct.unpack("<i" if kind == TYPE_INT32 else "<f", carried)[0])
