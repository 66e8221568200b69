"""Records of a flight, and the status of its processes.

For the telemetry logger (`mcap_log`); for the commands that read, verify and plot records (`flight_files`,
`audit`, `flight_totals`, `tracks`, `moderation_plot`); for `chimera swarm`, which aggregates status lines
(`status_line`, `process_status`, `status`), shows them (`table`) and writes the report (`report`). Does its
own file I/O; imports neither ROS nor nodes, launcher or commands. Begin with `process_status` for the status
of processes, with `flight_files` for records.
"""
