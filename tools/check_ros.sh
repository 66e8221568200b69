#!/usr/bin/env bash
# On a machine with ROS 2 installed: colcon build, the launch tests, and chimera_ros with ROS's own tools.
# Usage: source /opt/ros/DISTRO/setup.bash && tools/check_ros.sh [--no-build]
# --no-build tests the chimera_ros of the sourced workspace. Otherwise the checkout is built into a temporary
# workspace, with the virtual environment of tools/ros_venv.sh (made here if there is none). About ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source_dir=$PWD
build=true
case ${1:-} in
  --no-build) build=false ;;
  "") ;;
  *) echo "check_ros: $1 is no option; --no-build is the only one" >&2; exit 2 ;;
esac
if [ -z "${AMENT_PREFIX_PATH:-}" ] || ! command -v ros2 > /dev/null; then
  echo "check_ros: no ROS 2 in this shell: run 'source /opt/ros/DISTRO/setup.bash' first" >&2
  exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A domain of its own on this host, and no traces in the user's folders.
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-$((RANDOM % 100 + 1))} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_LOG_DIR=$work/ros_log CHIMERA_HOME=$work/home PYTHONDONTWRITEBYTECODE=1
python=python3

if $build; then
  command -v colcon > /dev/null || { echo "check_ros: colcon is missing: apt install python3-colcon-common-extensions" >&2; exit 2; }
  [ -x .venv-ros/bin/python ] || tools/ros_venv.sh
  # shellcheck disable=SC1091
  source .venv-ros/bin/activate
  python=$source_dir/.venv-ros/bin/python
  "$python" -c 'import hypothesis, pytest_timeout' 2> /dev/null \
    || "$python" -m pip install --quiet --disable-pip-version-check hypothesis pytest-timeout 'pytest>=8.2,<8.4'
  echo "* colcon build"
  colcon --log-base "$work/log" build --base-paths "$source_dir" --packages-select chimera_ros \
    --build-base "$work/build" --install-base "$work/install" --event-handlers console_direct- \
    --cmake-args -DBUILD_TESTING=OFF
  set +u  # the generated scripts read unset variables
  # shellcheck disable=SC1091
  source "$work/install/local_setup.bash"
  set -u
fi

# In another folder, so that the installed package is imported, not the checkout.
cd "$work"
echo "* executables: $(ros2 pkg executables chimera_ros | tr '\n' ' ')"
echo "* launch tests and ROS's tools, with $(ros2 pkg prefix chimera_ros)"
CHIMERA_REQUIRE_LAUNCH=1 "$python" -P -m pytest -p no:cacheprovider -v \
  "$source_dir/test/ros/test_launch_swarm.py" "$source_dir/test/ros/test_ros_tools.py"
ros2 daemon stop > /dev/null 2>&1 || true
echo "* ROS tools: all well"
