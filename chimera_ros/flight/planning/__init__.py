"""Mission files and the planner: a mission becomes checked trajectories for every drone before take-off.

Pure. It must not import leader, follower or moderation: path moderation is a function that callers pass in
(`moderation_call.Moderate`). Begin with `mission` (the data), then `planner`.
"""
