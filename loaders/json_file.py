"""The JSON files that tools write beside their tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loaders.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Writes ``value``, and the folders on the way to ``path``.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
