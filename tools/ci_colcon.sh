#!/usr/bin/env bash
# Builds the checkout with colcon into a temporary workspace and runs executables from its install space.
# Usage: tools/ci_colcon.sh [VENV]   (default .venv, made by `make install-dev`)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath "${1:-.venv}")
source_dir=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the ROS wheels' bootstrapper left behind belongs to one environment only.
unset LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-$((RANDOM % 100 + 1))} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_LOG_DIR=$work/ros_log CHIMERA_HOME=$work/home PYTHONDONTWRITEBYTECODE=1

echo "* colcon build"
"$venv/bin/colcon" --log-base "$work/log" build --base-paths "$source_dir" --packages-select chimera_ros \
  --build-base "$work/build" --install-base "$work/install" --event-handlers console_direct- \
  --cmake-args -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release

prefix=$work/install/chimera_ros
set +u  # the generated scripts read unset variables
# shellcheck disable=SC1091
source "$work/install/local_setup.bash"
set -u
# The wheels find their libraries through their own bootstrapper, which ends by replacing this process's
# LD_LIBRARY_PATH; what colcon added has to survive that.
export LD_LIBRARY_PATH=$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
cd "$work"

echo "* a message through the install space"
"$venv/bin/python" "$source_dir/tools/smoke_node.py" "$prefix"

echo "* executables of the install space"
public="chimera crypto follower leader path_moderation sitl telemetry_logger"
found=$(find "$prefix/lib/chimera_ros" -type f -perm -u+x -printf '%f\n' | sort | xargs)
[ "$found" = "$public" ] || { echo "lib/chimera_ros holds $found, not $public" >&2; exit 1; }
test -x "$prefix/libexec/chimera_ros/describe" || { echo "libexec/chimera_ros/describe is missing" >&2; exit 1; }
"$prefix/bin/chimera" --help > /dev/null
for file in launch/swarm.launch.py config/policy.yaml config/params.yaml; do
  test -f "$prefix/share/chimera_ros/$file" || { echo "share/chimera_ros/$file is missing" >&2; exit 1; }
done
where=$("$venv/bin/python" -c 'import chimera_ros.swarm as s; print(s.__file__)')
case $where in "$prefix"/*) ;; *) echo "the rooms come from $where, not from $prefix" >&2; exit 1 ;; esac

echo "* the crypto node from the install space"
"$venv/bin/python" "$source_dir/tools/smoke_crypto.py" "$prefix/lib/chimera_ros/crypto" "$work/keys"
echo "* colcon: all well"
