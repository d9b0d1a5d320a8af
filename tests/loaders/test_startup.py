"""A command's late imports are gone through by the garbage collector neither then nor later."""

import gc
import subprocess
import sys

import pytest

from loaders.startup import late_imports
from tests.helpers.training import ROOT

FRESH = """
import gc, sys
from loaders.startup import late_imports

try:
    with late_imports():
        assert not gc.isenabled()
        import concurrent.futures, nowhere
except ModuleNotFoundError:
    print(gc.isenabled(), gc.get_freeze_count() > 1000, any(o is sys.modules["concurrent"] for o in gc.get_objects()))
"""


def test_what_a_fresh_process_imports_stays_and_is_not_looked_at_again():
    done = subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_a_process_that_has_torch_already_is_left_as_it_is(enabled, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    frozen = gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        with late_imports():
            assert gc.isenabled() == enabled
        assert gc.isenabled() == enabled and gc.get_freeze_count() == frozen
    finally:
        gc.enable()
