"""One thin lifecycle node per file. Nobody imports this room."""
