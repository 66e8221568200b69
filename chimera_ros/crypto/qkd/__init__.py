"""Quantum key distribution: a BB84 session between two ends as plain objects, and a door for real equipment.

`session.Alice` prepares photons, `session.Bob` measures them; what lies between is `line`. `delivery` is what
the swarm uses: keys by identifier, in the shape of ETSI GS QKD 014, which a client of real equipment can
serve as well.

Here photons are simulated: their preparation travels to the other end as data. Such a key is as secret as the
sealed channel that carried it, no more.
"""
