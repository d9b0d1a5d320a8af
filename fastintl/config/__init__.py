"""The typed configuration of a run; ``keys.py`` declares every key. Importing this needs no torch."""

from fastintl.config.images import Crops, Data
from fastintl.config.keys import (
    Config,
    Eval,
    Log,
    Loss,
    Model,
    Optim,
    Train,
    differences,
    from_dict,
    from_yaml,
    help_text,
    load,
    to_yaml,
)

__all__ = [
    "Config",
    "Crops",
    "Data",
    "Eval",
    "Log",
    "Loss",
    "Model",
    "Optim",
    "Train",
    "differences",
    "from_dict",
    "from_yaml",
    "help_text",
    "load",
    "to_yaml",
]
