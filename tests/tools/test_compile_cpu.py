"""What tools/compile_cpu.py leaves in numba's cache is all that a run needs."""

import re
import subprocess
import sys

import pytest

from loaders.beton.convert import convert
from loaders.datasets.folder import folder_splits
from tests.helpers import training


@pytest.mark.slow
def test_a_run_after_it_compiles_nothing(tmp_path):
    environment = {**training.environment(), "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}

    def run(*command: str) -> tuple[set[str], set[str]]:
        """The functions whose machine code was written to the cache, and those whose code was read from it."""
        done = subprocess.run(command, cwd=training.ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        said = re.findall(r"\[cache\] data (saved to|loaded from) .*/(\w+\.\w+)-\d+\.py", done.stdout)
        return tuple({name for verb, name in said if verb == wanted} for wanted in ("saved to", "loaded from"))

    saved, _ = run(sys.executable, "tools/compile_cpu.py")
    assert {"colour.colour_crop", "cpu_loops.screen", "cpu_loops.adam"} <= saved
    training.write_images(tmp_path / "data")
    for part, split in folder_splits(tmp_path / "data", 0.1).items():
        convert(split, tmp_path / f"{part}.beton")
    files = {"data__train": tmp_path / "train.beton", "data__val": tmp_path / "val.beton"}
    command = training.command(tmp_path, None, **files, data__source="auto", data__threads=2, train__max_steps=2)
    compiled, read = run(*command)
    assert not compiled and {"colour.colour_crop", "cpu_loops.screen"} <= read
