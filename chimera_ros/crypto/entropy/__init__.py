"""Entropy: health tests, conditioning, and the pool that epoch seeds are drawn from (docs/entropy.md).

Must not depend on: devices, simulators and the key protocol; samples are passed in. Begin with `pool.py`;
`source_names.py` has the names of the sources.
"""
