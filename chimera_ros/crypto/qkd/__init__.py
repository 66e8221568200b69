"""Quantum key distribution: BB84 sessions as plain objects, and the key delivery interface of the swarm.

Must not depend on: sockets, ROS, and which simulator or device carries the photons. Begin with `session`:
`Alice` prepares photons, `Bob` measures them; `quantum_channel` is the channel between them. `delivery` is
the interface used by the swarm: keys by identifier, as in ETSI GS QKD 014, which a client of real equipment
can implement as well.

Here photons are simulated: their preparation is sent to the other endpoint as data. Such a key is as secret
as the sealed channel that carried it, no more.
"""
