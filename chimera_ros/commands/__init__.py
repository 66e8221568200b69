"""The sub-commands of `chimera`, one file each, and the child-process supervisor beneath `chimera swarm`.

Nothing here is imported before its sub-command runs, so that `chimera --help` answers at once.
"""
