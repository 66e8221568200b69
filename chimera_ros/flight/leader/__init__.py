"""Leader: flies one mission by commands and trajectories, and reacts to losses, operators and fallback.

It knows a drone by its telemetry and acknowledgements only, and must not import `follower`.

Begin with `core`, then `mission_script` (which steps) and `manoeuvres` (how drones execute them); all parts
share `state`.
"""
