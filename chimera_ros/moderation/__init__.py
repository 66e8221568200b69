"""Path moderation: planned trajectories in, verified conflict-free ones out (docs/moderation.md)."""
