"""Flight logic as plain objects: missions, formations, trajectories, followers and leader. ENU metres, no
clock.
"""
