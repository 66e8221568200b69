"""Roles of members, as in their certificates."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """Role of a member; the value is the one in a certificate's URI."""

    CRYPTO = "crypto"
    LEADER = "leader"
    DRONE = "drone"
    LOGGER = "logger"
    MODERATOR = "moderator"
    GATEWAY = "gateway"
    OPERATOR = "operator"
    MONITOR = "monitor"


ROLE_NUMBERS: Final = {role: number for number, role in enumerate(Role, start=1)}
ROLES_BY_NUMBER: Final = {number: role for role, number in ROLE_NUMBERS.items()}

# First segments of channels of a function. A member may have such a name only with this role.
RESERVED_NAMES: Final = {
    "crypto": Role.CRYPTO,
    "leader": Role.LEADER,
    "operator": Role.OPERATOR,
    "path_moderation": Role.MODERATOR,
}
