#!/usr/bin/env bash
# Builds the messages with ROS 2 Jazzy's wheels on Python 3.12 and runs nodes on them; skips, saying so, where
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

echo "* Jazzy on $("$python" --version)"
"$python" tools/install.py --venv "$venv" --extras dev
found=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("ros-rclpy"))')
case $found in 7.1.*) ;; *) echo "rclpy is $found, not Jazzy's 7.1" >&2; exit 1 ;; esac

echo "* a message"
"$venv/bin/python" tools/smoke_node.py "$venv"
echo "* the crypto node"
"$venv/bin/python" tools/smoke_crypto.py "$venv/lib/chimera_ros/crypto" "$work/keys"
echo "* unit tests"
"$venv/bin/python" -m pytest -q -m "not slow" test/unit
echo "* jazzy: all well"
