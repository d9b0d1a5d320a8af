"""Finds and reads a recipe, which ``--rcfg`` names: a file, or one of those that come with the project."""

from __future__ import annotations

import difflib
from pathlib import Path

from loaders.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent
_HOMES = (_PACKAGE / "rcfgs", _PACKAGE.parent / "rcfgs")  # of an installed wheel, of a clone


def find(rcfg: Path | str) -> Path:
    """The file of a recipe.

    Args:
        rcfg: a file, or the name of a recipe of this project: ``ep100``, ``cw_rgp/cifar10_2``, ``eval/knn_5``; with or
            without ``rcfgs/`` before it and ``.yaml`` behind it.

    Raises:
        UserError: there is neither; names the recipes that are near.
    """
    path = Path(rcfg)
    if path.exists() and not path.is_dir():
        return path
    name = str(rcfg).removeprefix("rcfgs/").removesuffix(".yaml")
    recipes = own_recipes()
    if name not in recipes:
        near = _near(name, list(recipes))
        raise UserError(f"{rcfg}: cannot be read (No such file or directory) and is no recipe's name; {near}")
    return recipes[name]


def read(rcfg: Path | str) -> str:
    """The text of a recipe, see ``find``; raises ``UserError`` where it cannot be read, too."""
    path = find(rcfg)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path}: cannot be read ({reason}); --rcfg takes a recipe such as rcfgs/ep100.yaml") from None


def own_recipes() -> dict[str, Path]:
    """The recipes of this project by name: their paths below ``rcfgs/``, without ``.yaml``."""
    home = next((folder for folder in _HOMES if folder.is_dir()), _HOMES[0])
    return {str(path.relative_to(home).with_suffix("").as_posix()): path for path in sorted(home.rglob("*.yaml"))}


def _near(name: str, known: list[str]) -> str:
    leaf = name.rpartition("/")[2]
    same = [other for other in known if other.rpartition("/")[2] == leaf]
    near = same or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(other for other in known if '/' not in other)} and more"
