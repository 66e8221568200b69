"""Bridge from flight logic to autopilots by MAVSDK: ENU metres in `map` outside, NED and FRD inside.

Of chimera_ros it imports `flight` only: ROS, keys and processes are not known here. Begin with `bridge` (the
interface), then `vehicle_link` (one vehicle and its threads), `origin` and `frames` (EKF origin and `map`),
`personality` (what differs between PX4 and ArduPilot).
"""
