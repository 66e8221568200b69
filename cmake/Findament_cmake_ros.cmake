# Jazzy's typesupport generators ask for ament_cmake_ros. From its wheel it cannot be used, since it wants gtest and
# gmock, of which there are none; what the generators need of it is in ament_cmake_ros_core. Where ROS itself is
# installed, the real package is found and this file only passes it on.
find_package(ament_cmake_ros CONFIG QUIET)
if(NOT ament_cmake_ros_FOUND)
  find_package(ament_cmake_ros_core REQUIRED)
  set(ament_cmake_ros_FOUND TRUE)
endif()
