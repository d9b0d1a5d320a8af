"""The subcommands of tools/bench.py: each module has ``add_arguments``, ``run`` and, as its text, the help."""
