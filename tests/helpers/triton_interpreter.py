"""Whether Triton's kernels can run here without a GPU."""

import numpy as np
import pytest


def require_interpreter() -> None:
    """Skips the test where Triton's interpreter fails by itself."""
    triton = pytest.importorskip("triton")
    is_old = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8)
    if is_old and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("this Triton's interpreter does not know NumPy 2.4; on a GPU its kernels run")
