"""Writes a backbone for other libraries: torchvision and timm (.pt, .safetensors), detectron2 (.pkl).

    python tools/export.py runs/mine --out mine.safetensors
    python tools/export.py checkpoint.pth.tar --target --out mine_ema.pkl

Reads what fastintl.load_backbone reads. The classifier fc is not in the files:
    timm.create_model("resnet50", num_classes=0, checkpoint_path="mine.safetensors")
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line  # noqa: E402
from loaders.errors import exit_on_user_error  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="file of weights, run folder or URL")
    parser.add_argument("--out", type=Path, required=True, help="file to write: .pt, .safetensors or .pkl")
    command_line.add_network(parser)
    given = parser.parse_args(words)

    with late_imports():
        from fastintl.network.names import ARCHITECTURES
        from fastintl.weights.backbone import load_backbone
        from fastintl.weights.export import export

    backbone = load_backbone(given.weights, given.arch, stem=given.stem, target=given.target)
    export(backbone, given.out)
    stem = f", stem {backbone.stem}" if backbone.arch in ARCHITECTURES else ""
    print(f"{given.out}: {backbone.arch}{stem}, {given.out.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
