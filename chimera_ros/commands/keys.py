"""`chimera keys`: keystore of a swarm: authority, members, revocation list, policy, fallback secret.

The authority's passphrase is read from the terminal or a file, never from the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chimera_ros import key_passphrase
from chimera_ros.command_line import member_name, number, some_path, swarm_name
from chimera_ros.commands.errors import FAILURE, MISUSE, CommandFailed
from chimera_ros.crypto.errors import CryptoError, RankTaken
from chimera_ros.crypto.keystore.authority import REASONS, AuthorityKeystore
from chimera_ros.crypto.keystore.fallback_secret import FILE_NAME, LIFE_NS
from chimera_ros.crypto.keystore.inspection import keystore_faults, member_faults, merged
from chimera_ros.crypto.keystore.key_file import is_encrypted
from chimera_ros.crypto.keystore.keystore import DamagedMember, Keystore, MemberInfo
from chimera_ros.crypto.trust.policy_yaml import MAX_DOCUMENT
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.formats.text import FormatError, excerpt, plain_text, read_bytes
from chimera_ros.terminal.lines import ask_secret, print_json, print_line

KEYSTORE_VARIABLE = "CHIMERA_KEYSTORE"
SOON_S = 30 * 86400.0


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera keys`."""
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="create|enroll|renew|revoke|policy|fallback|list|show"
    )
    create = verbs.add_parser(
        "create", help="create a keystore: authority, signed policy, empty revocation list"
    )
    create.add_argument("directory", nargs="?", type=some_path, metavar="DIR", help="same as --keystore")
    create.add_argument(
        "--swarm",
        type=swarm_name,
        default="chimera",
        metavar="NAME",
        help="name of the swarm (default chimera)",
    )
    create.add_argument(
        "--policy", type=some_path, metavar="FILE", help="policy to sign (default: the shipped one)"
    )
    create.add_argument("--days", type=number, default=825.0, metavar="N", help="validity (default 825 days)")
    create.add_argument(
        "--no-passphrase",
        action="store_true",
        help="do not encrypt the authority's key: for simulations, never for a real swarm",
    )
    enroll = verbs.add_parser("enroll", help="create a member's key and certificate")
    enroll.add_argument("name", type=member_name, metavar="NAME", help="for example drone_07")
    enroll.add_argument("role", type=_role, metavar="ROLE", help=", ".join(role.value for role in Role))
    enroll.add_argument("--days", type=number, default=365.0, metavar="N", help="validity (default 365 days)")
    enroll.add_argument(
        "--key-passphrase-file", type=some_path, metavar="FILE", help="first line encrypts the member's key"
    )
    renew = verbs.add_parser("renew", help="create a new key and certificate for a member")
    renew.add_argument("name", type=member_name, metavar="NAME")
    renew.add_argument("--days", type=number, default=365.0, metavar="N", help="validity (default 365 days)")
    renew.add_argument(
        "--key-passphrase-file", type=some_path, metavar="FILE", help="first line encrypts the new key"
    )
    revoke = verbs.add_parser("revoke", help="revoke a member's certificates")
    revoke.add_argument(
        "name",
        nargs="?",
        type=member_name,
        metavar="NAME",
        help="none with --refresh: only new dates for the list",
    )
    revoke.add_argument("--reason", choices=REASONS, default=REASONS[0], help=f"default {REASONS[0]}")
    revoke.add_argument(
        "--old", action="store_true", help="only certificates that were renewed; the present one stays valid"
    )
    revoke.add_argument(
        "--refresh", action="store_true", help="revoke nothing; sign the list again for --days"
    )
    revoke.add_argument(
        "--days", type=number, default=90.0, metavar="N", help="validity of the list (default 90 days)"
    )
    policy = verbs.add_parser("policy", help="sign a newer policy and install it")
    policy.add_argument("file", type=some_path, metavar="FILE", help="policy with a higher `version`")
    policy.add_argument("--days", type=number, default=825.0, metavar="N", help="validity (default 825 days)")
    fallback = verbs.add_parser(
        "fallback", help="create a pre-shared secret for a swarm without crypto node, valid for 24 hours"
    )
    listing = verbs.add_parser("list", help="list all members")
    show = verbs.add_parser("show", help="show one member")
    show.add_argument("name", type=member_name, metavar="NAME")
    for verb in (create, enroll, renew, revoke, policy, fallback, listing, show):
        verb.add_argument(
            "--keystore", type=some_path, metavar="DIR", help=f"default ${KEYSTORE_VARIABLE} or ./keystore"
        )
        verb.add_argument("--json", action="store_true", help="machine-readable output")
    for verb in (create, enroll, renew, revoke, policy):
        verb.add_argument(
            "--passphrase-file",
            type=some_path,
            metavar="FILE",
            help="first line decrypts the authority's key",
        )


def _role(text: str) -> str:
    roles = [role.value for role in Role]
    if text not in roles:
        raise argparse.ArgumentTypeError(f"'{excerpt(text)}' is no role; use one of {', '.join(roles)}")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Runs one verb."""
    keystore = AuthorityKeystore(_path(arguments))
    try:
        if arguments.verb == "create":
            return _create(keystore, arguments)
        if arguments.verb == "enroll":
            return _enroll(keystore, arguments)
        if arguments.verb == "renew":
            return _renew(keystore, arguments)
        if arguments.verb == "revoke":
            return _revoke(keystore, arguments)
        if arguments.verb == "policy":
            return _policy(keystore, arguments)
        if arguments.verb == "fallback":
            return _fallback(keystore, as_json=arguments.json)
        if arguments.verb == "list":
            return _list(keystore, as_json=arguments.json)
        member = keystore.show(arguments.name)
        return _report(_show(member, _faults(keystore, member), as_json=arguments.json))
    except CryptoError as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        if error.filename is None:  # of the output, not of the keystore
            raise
        raise CommandFailed(f"{error.filename}: {error.strerror or error}") from error


def _path(arguments: argparse.Namespace) -> Path:
    positional = getattr(arguments, "directory", None)
    if positional and arguments.keystore and positional != arguments.keystore:
        raise CommandFailed(
            f"two keystores are named, {positional} and {arguments.keystore}; give one", MISUSE
        )
    chosen = positional or arguments.keystore or os.environ.get(KEYSTORE_VARIABLE) or "keystore"
    return Path(chosen)


def _create(keystore: Keystore, arguments: argparse.Namespace) -> int:
    _check_days(arguments.days)
    policy = _policy_text(arguments.policy) if arguments.policy else None
    if keystore.exists():  # before a passphrase is typed
        raise CommandFailed(
            f"{keystore.path} already holds a keystore; choose another directory or delete it"
        )
    passphrase = None
    if arguments.passphrase_file:
        passphrase = _passphrase_from(arguments.passphrase_file)
    elif not arguments.no_passphrase:
        passphrase = _new_passphrase()
    keystore.create(
        arguments.swarm,
        wall_ns=time.time_ns(),
        passphrase=passphrase,
        policy_text=policy,
        days=arguments.days,
    )
    if arguments.json:
        made = {"keystore": str(keystore.path), "swarm": arguments.swarm, "encrypted": passphrase is not None}
        print_json(made)
        return 0
    print_line(f"keystore of swarm {arguments.swarm} made in {keystore.path}")
    if passphrase is None:
        print_line("the authority's key is not encrypted: use this keystore for simulations only")
    print_line(f"next: chimera keys enroll NAME ROLE --keystore {keystore.path}")
    return 0


def _enroll(keystore: Keystore, arguments: argparse.Namespace) -> int:
    _check_days(arguments.days)
    try:
        keystore.check_rank(
            arguments.name, arguments.role, time.time_ns()
        )  # before a passphrase is asked for
    except RankTaken as error:
        raise CommandFailed(str(error), MISUSE) from error
    file = arguments.key_passphrase_file
    keystore.enroll(
        arguments.name,
        arguments.role,
        wall_ns=time.time_ns(),
        passphrase=_authority_passphrase(keystore, arguments),
        key_passphrase=_passphrase_from(file) if file else None,
        days=arguments.days,
    )
    _show(keystore.show(arguments.name), [], as_json=arguments.json)
    return 0


def _renew(keystore: AuthorityKeystore, arguments: argparse.Namespace) -> int:
    _check_days(arguments.days)
    keystore.show(arguments.name)  # fails on an unknown name before a passphrase is asked for
    file = arguments.key_passphrase_file
    keystore.renew(
        arguments.name,
        wall_ns=time.time_ns(),
        passphrase=_authority_passphrase(keystore, arguments),
        key_passphrase=_passphrase_from(file) if file else None,
        days=arguments.days,
    )
    _show(keystore.show(arguments.name), [], as_json=arguments.json)
    if not arguments.json:
        print_line(f"next: restart {arguments.name}; it rejoins with the new certificate")
    return 0


def _revoke(keystore: AuthorityKeystore, arguments: argparse.Namespace) -> int:
    _check_days(arguments.days)
    if (arguments.name is None) != arguments.refresh or (arguments.refresh and arguments.old):
        raise CommandFailed("name one member to revoke, or give --refresh and none", MISUSE)
    if arguments.name is not None:
        keystore.show(arguments.name)
    number, added, unreadable = keystore.revoke(
        arguments.name,
        wall_ns=time.time_ns(),
        reason=arguments.reason,
        passphrase=_authority_passphrase(keystore, arguments),
        days=arguments.days,
        old_only=arguments.old,
    )
    if arguments.json:
        print_json({"name": arguments.name, "revoked": added, "crl_number": number})
    else:
        if arguments.name is not None:
            print_line(f"{arguments.name}: {added} certificate{'s' if added != 1 else ''} revoked")
        print_line(
            f"revocation list {number} written; running crypto nodes with this keystore load it by themselves"
        )
    return _report(
        f"{path} is no certificate, so that it was not revoked; restore it and run this again, or delete it."
        for path in unreadable
    )


def _policy(keystore: AuthorityKeystore, arguments: argparse.Namespace) -> int:
    _check_days(arguments.days)
    version = keystore.install_policy(
        _policy_text(arguments.file),
        wall_ns=time.time_ns(),
        passphrase=_authority_passphrase(keystore, arguments),
        days=arguments.days,
    )
    if arguments.json:
        print_json({"keystore": str(keystore.path), "policy_version": version})
        return 0
    print_line(f"policy {version} signed; running crypto nodes with this keystore load it by themselves")
    return 0


def _policy_text(path: Path) -> str:
    try:
        return plain_text(read_bytes(path, MAX_DOCUMENT), MAX_DOCUMENT)
    except OSError as error:
        raise CommandFailed(f"{path}: cannot read the policy ({error.strerror})", MISUSE) from None
    except FormatError as error:
        raise CommandFailed(f"{path}: {error}", MISUSE) from None


def _authority_passphrase(keystore: Keystore, arguments: argparse.Namespace) -> bytes | None:
    if arguments.passphrase_file:
        return _passphrase_from(arguments.passphrase_file)
    if is_encrypted(keystore.path / "authority.key"):
        return _ask(f"passphrase of the authority in {keystore.path}: ")
    return None


def _fallback(keystore: Keystore, *, as_json: bool) -> int:
    keystore.load_trust(wall_ns=time.time_ns())
    secret = keystore.renew_fallback(time.time_ns())
    path, until = keystore.path / FILE_NAME, _date(secret.issued_ns + LIFE_NS)
    if as_json:
        print_json({"path": str(path), "valid_until": until})
        return 0
    print_line(f"{path} is valid until {until}; copy it to every member before it starts")
    return 0


def _list(keystore: Keystore, *, as_json: bool) -> int:
    """Prints all members; what is wrong with them goes to standard error, and makes the status 1."""
    members, damaged = keystore.entries()
    rows = [_plain(member, _faults(keystore, member)) for member in members]
    rows += [_plain_damaged(entry) for entry in damaged]
    rows.sort(key=lambda row: str(row["name"]))
    if as_json:
        print_json(rows, indent=2)
    elif not rows:
        print_line(f"no member is enrolled in {keystore.path}; add one with: chimera keys enroll NAME ROLE")
    else:
        _print_table(rows)
    of_keystore = keystore_faults(keystore, [member.name for member in members if member.has_key])
    for check in (lambda: keystore.load_trust(wall_ns=time.time_ns()), keystore.fallback):
        try:
            check()
        except CryptoError as error:
            of_keystore.append(str(error))
    return _report([*of_keystore, *merged(keystore, {row["name"]: row["faults"] for row in rows})])


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from chimera_ros.terminal.styled import Console, Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "role", "valid until", "state", "fingerprint"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        state = "unusable" if row["faults"] and row["state"] == "ok" else row["state"]
        style = "green" if state == "ok" else "yellow" if state.startswith("expires") else "red"
        name = Text(row["name"])
        until, fingerprint = (row["valid_until"] or "?")[:10], (row["fingerprint"] or "?")[:16]
        table.add_row(name, row["role"] or "?", until, Text(state, style), fingerprint)
    Console().print(table)


def _faults(keystore: Keystore, member: MemberInfo) -> list[str]:
    """What keeps the member from running with the files that are here."""
    # Without a key it runs elsewhere, and its state is there.
    faults = member_faults(keystore, member.name) if member.has_key else []
    try:
        keystore.check_key(member.name)
    except CryptoError as error:
        faults.append(str(error))
    return faults


def _report(faults: Iterable[str]) -> int:
    """Prints each fault as a sentence; the exit status."""
    status = 0
    for fault in faults:
        print_line(f"chimera keys: {fault}", error=True)
        status = FAILURE
    return status


def _show(member: MemberInfo, faults: Sequence[str], *, as_json: bool) -> Sequence[str]:
    plain = _plain(member, faults)
    if as_json:
        print_json(plain, indent=2)
        return faults
    del plain["faults"]
    width = max(map(len, plain))
    for key, value in plain.items():
        print_line(f"{key.replace('_', ' '):<{width}}  {value}")
    return faults


def _plain(member: MemberInfo, faults: Sequence[str]) -> dict[str, Any]:
    return {
        "name": member.name,
        "role": member.role.value,
        "swarm": member.swarm,
        "state": _state(member),
        "valid_from": _date(member.not_before_ns),
        "valid_until": _date(member.not_after_ns),
        "fingerprint": member.fingerprint.hex(),
        "serial": f"{member.serial:x}",
        "key": "none here" if not member.has_key else "encrypted" if member.key_encrypted else "unencrypted",
        "certificate": str(member.certificate_path),
        "faults": list(faults),
    }


def _plain_damaged(entry: DamagedMember) -> dict[str, Any]:
    unknown = ("role", "swarm", "valid_from", "valid_until", "fingerprint", "serial", "key", "certificate")
    return {"name": entry.name, **dict.fromkeys(unknown), "state": "damaged", "faults": [entry.fault]}


def _state(member: MemberInfo) -> str:
    now_ns = time.time_ns()
    if member.revoked:
        return "revoked"
    if member.expired(now_ns):
        return "expired"
    left_s = (member.not_after_ns - now_ns) / 1e9
    return "ok" if left_s > SOON_S else f"expires in {left_s / 86400.0:.0f} days"


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_days(days: float) -> None:
    if not 0.01 <= days <= 36500.0:
        raise CommandFailed(f"--days is {days:g}; allowed are 0.01 to 36500", MISUSE)


def _passphrase_from(path: Path) -> bytes:
    try:
        return key_passphrase.read_file(path)
    except key_passphrase.PassphraseError as error:
        raise CommandFailed(str(error), FAILURE if path.is_file() else MISUSE) from None


def _new_passphrase() -> bytes:
    first = _ask("new passphrase for the authority's key: ")
    if not first:
        raise CommandFailed(
            "an empty passphrase protects nothing; for simulations use --no-passphrase", MISUSE
        )
    if first != _ask("again: "):
        raise CommandFailed("the two passphrases differ; nothing was made", MISUSE)
    return first


def _ask(prompt: str) -> bytes:
    if not sys.stdin.isatty():
        raise CommandFailed(
            "a passphrase is needed and this is no terminal; give --passphrase-file FILE"
            " (or, to make a keystore for simulations, --no-passphrase)",
            MISUSE,
        )
    try:
        return os.fsencode(ask_secret(prompt))
    except EOFError:
        raise CommandFailed("no passphrase was given; nothing was changed", MISUSE) from None
