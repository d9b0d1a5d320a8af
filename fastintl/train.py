"""Pretrains a backbone without labels.

    python -m fastintl.train --rcfg rcfgs/demo.yaml
    torchrun --nproc-per-node 8 -m fastintl.train --rcfg rcfgs/ep100.yaml data.root=/data/imagenet

Starting the same command again resumes the run where it was, also after a kill and with another number of ranks.
"""

from __future__ import annotations

import argparse
import sys

from fastintl import config as configuration
from fastintl.config.options import KeyHelp
from loaders.errors import exit_on_user_error
from loaders.startup import late_imports


@exit_on_user_error
def main(arguments: list[str] | None = None, prog: str | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog="keys:\n" + configuration.help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=KeyHelp, cls=configuration.Config)
    parser.add_argument("--rcfg", metavar="RECIPE", help="a file, or a name such as ep100; none: the defaults")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
    given = parser.parse_intermixed_args(arguments)
    config = configuration.load(given.rcfg, given.overrides)
    if given.print_config:
        sys.stdout.write(configuration.to_yaml(config))
        return

    with late_imports(crops_on=config.train.device):
        from fastintl.training.pretraining import pretrain  # late: --help and --print-config need no torch

    pretrain(config)


if __name__ == "__main__":
    main(prog="python -m fastintl.train")
