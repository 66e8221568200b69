"""Description and supervision of the processes of a swarm.

`spec` turns options into process descriptions, for `chimera swarm` and `launch/swarm.launch.py`; `supervisor`
starts, monitors and stops child processes, with `child_log`, `usage` and `shared_memory`; `guardian` outlives
it. It knows processes, their arguments and their pipes, not their insides: imports neither ROS nor nodes or
commands. Begin with `spec.processes`.
"""
