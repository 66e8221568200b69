"""Coverage-guided fuzzing of everything that reads bytes from the network: `python tools/fuzz.py [TARGET …]`.

Each target runs in a process of its own for --seconds, with genuine messages as its corpus. An input that
causes a failure is stored in the folder of --findings; `--replay FILE TARGET` runs it again. Needs
atheris: `pip install -e '.[fuzz]'`. Exit status 1: a failure was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

_MAX_INPUT_BYTES = 32_768  # bytes of an input: an announcement to three members has 10 000
_TIMEOUT_S = 20  # for one input


def main() -> int:
    """Run the fuzzer, or one of its targets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="per target (default 60)")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="folder for findings")
    parser.add_argument("--replay", type=Path, help="run one input against one target")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None and arguments.replay is None:
        print("fuzz: atheris is not installed; get it with: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    if arguments.one:
        _fuzz(arguments.targets[0], arguments.seconds, arguments.findings)
    from fuzz_targets import TARGETS

    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        print(f"fuzz: there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if arguments.replay is not None:
        if len(arguments.targets) != 1:
            print("fuzz: --replay needs the name of one target", file=sys.stderr)
            return 2
        TARGETS[arguments.targets[0]].run(arguments.replay.read_bytes())
        print("fuzz: this input causes no failure")
        return 0
    return _all(arguments.targets or list(TARGETS), arguments.seconds, arguments.findings)


def _all(names: list[str], seconds: int, findings: Path) -> int:
    failed = []
    for number, name in enumerate(names, start=1):
        folder = findings.absolute() / name
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fuzz {number}/{len(names)} {name}: {seconds} s …", flush=True)
        began = time.monotonic()
        command = [
            sys.executable,
            __file__,
            name,
            "--one",
            "--seconds",
            str(seconds),
            "--findings",
            str(folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * seconds + 300)
        output = done.stdout + done.stderr
        runs = [line.split()[-1] for line in output.splitlines() if "number_of_executed_units" in line]
        took = time.monotonic() - began
        if done.returncode == 0 and runs:
            print(f"fuzz {number}/{len(names)} {name}: {runs[-1]} inputs in {took:.0f} s, nothing found")
            continue
        failed.append(name)
        print(output[-4000:], file=sys.stderr)
        print(f"fuzz {number}/{len(names)} {name}: FOUND, input stored in {folder}", flush=True)
    if failed:
        print(
            f"fuzz: {', '.join(failed)} failed; run one again with: "
            f"python tools/fuzz.py {failed[0]} --replay FILE",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _fuzz(name: str, seconds: int, findings: Path) -> NoReturn:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["chimera_ros.crypto", "chimera_ros.ros.cdr"]):
        from fuzz_targets import TARGETS
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        for index, data in enumerate(target.corpus()):
            (Path(folder) / f"genuine_{index:04d}").write_bytes(data)
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={_MAX_INPUT_BYTES}",
            f"-timeout={_TIMEOUT_S}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
            "-seed=1",
            "-rss_limit_mb=4096",
        ]
        atheris.Setup([sys.argv[0], *options, folder], target.run)
        atheris.Fuzz()
    raise AssertionError("the fuzzer returned")


if __name__ == "__main__":
    sys.exit(main())
