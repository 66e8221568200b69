"""Support for tests: a swarm of hosts and key servers on an in-memory wire with stepped time.

What it must not know: ROS, clocks and disks. Begin with `swarm.py`.
"""
