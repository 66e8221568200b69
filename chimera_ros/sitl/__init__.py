"""Simulated quadrotors that speak MAVLink 2 over UDP like PX4."""
