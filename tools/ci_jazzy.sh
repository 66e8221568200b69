#!/usr/bin/env bash
# `pip install .` with ROS 2 Jazzy's wheels on Python 3.12, then nodes and a short flight; skips, saying so, where
# there is no Python 3.12. Usage: tools/ci_jazzy.sh [VENV]   (default: a temporary one)
set -euo pipefail
cd "$(dirname "$0")/.."

# A name in PATH is not enough: version managers put shims there that only complain.
runs() { "$1" -c 'import sys, venv, ensurepip; assert sys.version_info[:2] == (3, 12)' > /dev/null 2>&1; }
python=
for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12 python3; do
  if runs "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "############################################################"
  echo "# SKIPPED: Jazzy on Python 3.12, there is no Python 3.12 here"
  echo "############################################################"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=$(realpath -m "${1:-$work/venv}")
unset LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH
export PIP_CONSTRAINT=$PWD/tools/jazzy.constraints.txt
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-$((RANDOM % 100 + 1))} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_LOG_DIR=$work/ros_log CHIMERA_HOME=$work/home

echo "* pip install . with Jazzy's wheels on $("$python" --version)"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check . > "$work/pip.log" 2>&1 \
  || { tail -40 "$work/pip.log" >&2; exit 1; }
found=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("ros-rclpy"))')
case $found in 7.1.*) ;; *) echo "rclpy is $found, not Jazzy's 7.1" >&2; exit 1 ;; esac

source_dir=$PWD
cd "$work" # so that the installed package is imported, not the checkout
echo "* a message"
"$venv/bin/python" "$source_dir/tools/smoke_node.py" "$venv"
echo "* the crypto node"
printf '#!/bin/sh\nexec "%s" -m chimera_ros.nodes.crypto "$@"\n' "$venv/bin/python" > crypto
chmod +x crypto
"$venv/bin/python" "$source_dir/tools/smoke_crypto.py" ./crypto "$work/keys"
echo "* the command"
"$venv/bin/chimera" --help > /dev/null
"$venv/bin/chimera" check antipodal_swap > /dev/null # a shipped mission, found in the installation
echo "* a flight of two drones"
"$venv/bin/chimera" swarm --drones 2 --mission formation_tour --duration 25 --no-record --record run \
  --first-port 28540 --gcs-port 0 --report flight.json > flight.log 2>&1 || true # ended early, so not complete
test -s flight.json || { tail -40 flight.log >&2; exit 1; }
"$venv/bin/python" - << 'PYTHON'
import json

report = json.load(open("flight.json"))
assert report["drones"] == 2, report
assert report["collisions"] == 0, report
assert report["messages"]["opened"] > 100, report["messages"]
print(f"{report['messages']['opened']} messages opened, ended as told: {report['failure']}")
PYTHON
echo "* jazzy: all well"
