"""Support for tests: a swarm of hosts and key servers on an in-memory wire with stepped time.

Must not depend on: ROS, clocks and disks. Begin with `swarm.py`.
"""
