"""Connection URLs of MAVSDK, expanded from one template and checked before anything is opened.

A template is a URL in which `{…}` holds arithmetic on `i`, the drone's index from 0:
`udpin://127.0.0.1:{14540+i}`, `tcpout://127.0.0.1:{5760+10*i}`, `serial:///dev/ttyACM{i}:57600`.
"""

from __future__ import annotations

import ast
import errno
import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

_NETWORK_SCHEMES = ("udpin", "udpout", "tcpin", "tcpout")
_SERIAL_SCHEMES = ("serial", "serial_flowcontrol")
SCHEMES = _NETWORK_SCHEMES + _SERIAL_SCHEMES
_LISTENING = ("udpin", "tcpin")
_DEPRECATED = {"udp": "udpin", "tcp": "tcpout"}
_MAX_EXPRESSION = 64
_MAX_NUMBER = 10**9
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}


class ConnectError(ValueError):
    """A connection template or URL that cannot be used; the text is why, and what to write instead."""


class PortBusy(ConnectError):
    """Another program is bound to a vehicle's port."""


@dataclass(frozen=True, slots=True)
class VehicleUrl:
    """A checked MAVSDK URL. `host` and `port` are empty and 0 for serial lines."""

    text: str
    scheme: str
    host: str = ""
    port: int = 0

    @property
    def listens(self) -> bool:
        """True if this side binds a port."""
        return self.scheme in _LISTENING

    @property
    def loopback_only(self) -> bool:
        """True if nothing outside this machine can be reached or can reach it."""
        if self.scheme in _SERIAL_SCHEMES:
            return True
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def open_to_network(self) -> bool:
        """True if this side binds a port that other machines reach."""
        return self.listens and not self.loopback_only


def evaluate(expression: str, i: int) -> int:
    """Value of an expression on `i`: whole numbers, + - * // % and brackets. Raises ConnectError."""

    def value(node: ast.AST) -> int:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int(number)) if (
                not isinstance(number, bool) and abs(number) <= _MAX_NUMBER
            ):
                return number
            case ast.Name(id="i"):
                return i
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                result = _OPERATORS[type(op)](value(left), value(right))
                if abs(result) > _MAX_NUMBER:
                    raise ConnectError(f"{{{expression}}} becomes {result}, which is too large")
                return result
        raise ConnectError(
            f"{{{expression}}} is not allowed in a connection template: "
            "write whole numbers, i, + - * // % and brackets"
        )

    if len(expression) > _MAX_EXPRESSION:
        raise ConnectError(
            f"an expression of {len(expression)} characters is too long (at most {_MAX_EXPRESSION})"
        )
    try:
        return value(ast.parse(expression.strip(), mode="eval"))
    except (SyntaxError, RecursionError, MemoryError):
        raise ConnectError(
            f"{{{expression}}} is not an expression: write for example {{14540+i}} or {{5760+10*i}}"
        ) from None
    except ZeroDivisionError:
        raise ConnectError(f"{{{expression}}} divides by zero for i = {i}") from None


def expand(template: str, i: int) -> VehicleUrl:
    """The URL of the drone with index `i` (from 0). Raises ConnectError."""
    if template.count("{") != template.count("}"):
        raise ConnectError(f"connection template {template!r} has a brace without its partner")
    filled = re.sub(r"\{([^{}]*)\}", lambda match: str(evaluate(match.group(1), i)), template)
    if "{" in filled or "}" in filled:
        raise ConnectError(f"connection template {template!r} has braces inside braces")
    return parse_url(filled)


def expand_all(template: str, indices: range) -> list[VehicleUrl]:
    """The URLs of several drones. Raises ConnectError, also where two drones would get the same URL."""
    urls: dict[str, int] = {}
    result = []
    for i in indices:
        url = expand(template, i)
        if url.text in urls:
            raise ConnectError(
                f"connection template {template!r} gives drones {urls[url.text] + 1} and {i + 1} "
                f"the same URL {url.text}: use the index, for example {{14540+i}}"
            )
        urls[url.text] = i
        result.append(url)
    return result


def parse_url(text: str) -> VehicleUrl:
    """Check a MAVSDK connection URL. Raises ConnectError."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        if scheme in _DEPRECATED:
            raise ConnectError(f"{text}: MAVSDK 4 calls this {_DEPRECATED[scheme]}://, write that")
        raise ConnectError(f"{text}: a connection starts with one of {', '.join(s + '://' for s in SCHEMES)}")
    if scheme in _SERIAL_SCHEMES:
        device, colon, baud = rest.rpartition(":")
        if not colon or not device.startswith("/") or not re.fullmatch(r"[1-9][0-9]{0,8}", baud):
            raise ConnectError(f"{text}: a serial line is written serial:///dev/ttyACM0:57600")
        return VehicleUrl(text, scheme)
    host, colon, port = rest.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ConnectError(
            f"{text}: the port must be a number from 1 to 65535, as in {scheme}://127.0.0.1:14540"
        )
    if not host:
        meaning = "127.0.0.1 (this machine only) or 0.0.0.0 (everybody on the network)"
        raise ConnectError(f"{text}: the address is missing: {meaning}")
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+", host):
        raise ConnectError(f"{text}: {host!r} is not a host name or address")
    return VehicleUrl(text, scheme, host, int(port))


def require_free_port(url: VehicleUrl, drone: str) -> None:
    """Raise PortBusy if another program is bound to the port of this URL; MAVSDK does not detect it."""
    if not url.listens:
        return
    kind = socket.SOCK_DGRAM if url.scheme == "udpin" else socket.SOCK_STREAM
    bind(url, drone, kind).close()


def bind(url: VehicleUrl, drone: str, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    """A socket bound where `url` listens. Raises PortBusy or ConnectError naming drone and port."""
    family = socket.AF_INET6 if url.host.startswith("[") else socket.AF_INET
    opened = socket.socket(family, kind)
    try:
        opened.bind((url.host.strip("[]"), url.port))
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            protocol = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
            raise PortBusy(
                f"{protocol} port {url.port}, where {drone} is expected ({url.text}), is already used by "
                "another program: end that program or choose other ports"
            ) from None
        raise ConnectError(f"cannot listen at {url.text} for {drone}: {error.strerror}") from None
    except UnicodeError:  # of the IDNA codec
        opened.close()
        raise ConnectError(f"cannot listen at {url.text} for {drone}: this is no host name") from None
    return opened
