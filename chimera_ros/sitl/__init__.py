"""Embedded SITL: simulated quadrotors with PX4's flight modes and failsafes, reached by MAVLink 2 over UDP.

World frame is NED, body frame FRD. Of chimera_ros only `flight.datum`, `stop_requests` and `parent_watch`
are imported: ROS and keys are not known here. Time is stepped; only `udp_server` and `stop_condition` read a
clock, and only the former opens a socket. Begin with `simulation` (what a step does), then `commander`,
`vehicle_state` and `flight_modes`, then `mavlink_vehicle`. `main` is `chimera sitl`.
"""
