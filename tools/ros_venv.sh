#!/usr/bin/env bash
# On a machine with ROS 2 installed: makes the virtual environment for what rosdep cannot install.
# Usage: source /opt/ros/jazzy/setup.bash && tools/ros_venv.sh [VENV]   (default .venv-ros)
# Then:  source VENV/bin/activate, build with colcon as usual; the nodes remember the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-ros}
python=${PYTHON:-python3}

if [ -z "${ROS_DISTRO:-}" ]; then
  echo "ros_venv: no ROS 2 in this shell: run 'source /opt/ros/DISTRO/setup.bash' first (without ROS: make install)" >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "ros_venv: ROS 2 $ROS_DISTRO runs on $("$python" --version); Python 3.11 or newer is needed (Jazzy, Kilted)" >&2
  exit 2
fi
if ! "$python" -c 'import venv, ensurepip' 2> /dev/null; then
  echo "ros_venv: Python's venv module is missing: sudo apt install python3-venv" >&2
  exit 2
fi

echo "* making $venv, which sees ROS and the system's packages"
"$python" -m venv --system-site-packages "$venv"
touch "$venv/COLCON_IGNORE" # colcon must not look for packages in it

# The same list as everywhere, without what ROS itself brings.
"$venv/bin/python" - > "$venv/requirements.txt" << 'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["quantum"]
print("\n".join(line for line in wanted if not line.startswith("ros-")))
PYTHON
echo "* installing what rosdep has no keys for"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$venv/requirements.txt"
"$venv/bin/python" -c 'import rclpy, cryptography, mavsdk, blake3, mcap' # all of it can be imported side by side
echo "* done; now: source $venv/bin/activate && colcon build, in the workspace's folder"
