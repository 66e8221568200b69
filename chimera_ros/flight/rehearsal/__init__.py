"""Rehearsal of a mission in memory: both cores, ideal vehicles and a simulated network with stepped time.

Used by tests; nothing else of flight may import it. Begin with `rehearsal`.
"""
