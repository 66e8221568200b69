"""Sub-commands of `chimera`: one module each (`cli.COMMANDS`), with helpers beside them.

A module has `register(parser)` and `run(arguments) -> int`, or a `main(argv) -> int` of its own; an expected
failure is an `errors.CommandFailed`. May import every package but nodes, which run in processes of their own.
A module is imported when its sub-command runs, heavy packages inside of functions only: `chimera --help` is
fast. Begin with `swarm` and `swarm_setup`.
"""
