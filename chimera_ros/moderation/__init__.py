"""Path moderation: planned trajectories in, verified conflict-free ones out (docs/moderation.md).

Pure: clock and quantum sampler are arguments. It stands on flight, whose request and answer
(`flight/moderation_call`) it uses, and which does not know it; it must not import ros, nodes or quantum.
Begin with `ladder`, the cascade of solvers, then `conflicts`, `manoeuvres`, `problem` and `verify`.
"""
