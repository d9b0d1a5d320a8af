"""The value of one configuration key: text or YAML to its declared type, its range, and how it is shown."""

from __future__ import annotations

import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from loaders.errors import UserError


def convert(value: Any, hint: Any, key: str) -> Any:
    """A value of the type that is declared for its key; raises ``UserError`` where it is none."""
    kind = hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None or value in ("", "~", "null"):
            return None
        kind = next(a for a in typing.get_args(hint) if a is not types.NoneType)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(value) == len(arguments):
            return tuple(convert(v, arguments[i], f"{key}[{i}]") for i, v in enumerate(value))
    elif origin is Literal and value in arguments:
        return value
    elif kind in _SCALARS:
        try:
            return _SCALARS[kind](value)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            pass
    raise UserError(f"{key}: {shown(value)} is not {describe(hint)}")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[value.lower()]


def _int(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise TypeError
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:  # which no path may hold
        raise TypeError
    return os.path.expanduser(value)  # the shell leaves the ~ of key=~/folder alone


_SCALARS = {bool: _bool, int: _int, float: _float, str: _str}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def describe(hint: Any) -> str:
    """A declared type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is types.NoneType else describe(a) for a in arguments)
    if origin is Literal:
        return arguments[0] if len(arguments) == 1 else f"one of {', '.join(arguments)}"
    if origin is tuple:
        inside = [describe(a) for a in arguments if a is not Ellipsis]
        if arguments[-1] is Ellipsis:
            return f"a list, each item {inside[0]}"
        return f"a list of {len(inside)} values, each {inside[0]}"
    return _NAMES[hint]


def describe_range(metadata: Mapping[str, Any]) -> str:
    """A declared range (``least``, ``above``, ``most``) in words, empty without one."""
    words = {"least": "at least", "above": "more than", "most": "at most"}
    return " and ".join(f"{words[k]} {metadata[k]:g}" for k in words if metadata.get(k) is not None)


def check_range(value: Any, metadata: Mapping[str, Any], key: str) -> None:
    """Raises ``UserError`` where a number, or one of a list, is out of its declared range."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            check_range(item, metadata, f"{key}[{index}]")
    elif isinstance(value, int | float):
        least, above, most = (metadata.get(name) for name in ("least", "above", "most"))
        too_low = (least is not None and value < least) or (above is not None and value <= above)
        if too_low or (most is not None and value > most):
            raise UserError(f"{key}: {shown(value)} is out of range; it must be {describe_range(metadata)}")


def check_folder_name(name: str | None) -> None:
    """Raises ``UserError`` where the name of a run would lead out of the folder ``out``."""
    if name is not None and (Path(name).name != name or name == ".."):
        raise UserError(f"name: {name} is not a plain folder name; set out= for the place")


def shown(value: Any) -> str:
    """A value as a user would type it after ``key=``."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    return value if isinstance(value, str) else json.dumps(value, default=str)
