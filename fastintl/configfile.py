"""The mechanics of typed configuration: YAML text and ``key=value`` words in, frozen dataclasses out.

Knows nothing of any particular key; the keys are declared in ``fastintl/config.py`` and
``fastintl/detection/config.py``. YAML gives every scalar as text here, and the declared type of a key decides what
the text means: ``1e-5`` is a number where a number is declared, ``off`` stays a word where a word is declared.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from loaders.errors import UserError


def option(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """Declares one key: its default, its doc, and the range of it or of each item of its list."""
    return field(default=default, metadata={"doc": doc, "least": least, "above": above, "most": most})


def group(cls: type) -> Any:
    """Declares a group of keys, itself a subclass of ``Options``."""
    return field(default_factory=cls)


class Options:
    """Base of a frozen dataclass of keys; every value is converted to its declared type and checked.

    ``key`` is the dotted prefix of its keys, for the sentences: ``class Train(Options, key="train")``.
    """

    _key = ""

    def __init_subclass__(cls, key: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._key = f"{key}." if key else ""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in fields(self):
            if not is_dataclass(hints[f.name]):
                key = self._key + f.name
                value = _convert(getattr(self, f.name), hints[f.name], key)
                _check_range(value, f.metadata, key)
                object.__setattr__(self, f.name, value)

    def is_changed(self, name: str) -> bool:
        """Whether a key is set to something else than its default."""
        return getattr(self, name) != self.__dataclass_fields__[name].default

    def refuse_unread(self, choice: str, read_by: Mapping[str, Sequence[str]]) -> None:
        """Refuses a value that nothing would read.

        Args:
            choice: the key that decides which others are read.
            read_by: for a key, the values of ``choice`` under which it is.
        """
        chosen = getattr(self, choice)
        for name, readers in read_by.items():
            if chosen not in readers and self.is_changed(name):
                raise UserError(
                    f"{self._key}{name}: {shown(getattr(self, name))} has no effect with {self._key}{choice}={chosen}; "
                    f"it belongs to {' and '.join(readers)}"
                )


def options(cls: type, prefix: str = "") -> dict[str, Field]:
    """Every key of a configuration class by its dotted name, in order of declaration."""
    found = {}
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            found |= options(hints[f.name], f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = f
    return found


def _convert(value: Any, hint: Any, key: str) -> Any:
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
            return tuple(_convert(v, arguments[i], f"{key}[{i}]") for i, v in enumerate(value))
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
    if not isinstance(value, str):
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


def _range(metadata: Mapping[str, Any]) -> str:
    words = {"least": "at least", "above": "more than", "most": "at most"}
    return " and ".join(f"{words[k]} {metadata[k]:g}" for k in words if metadata.get(k) is not None)


def _check_range(value: Any, metadata: Mapping[str, Any], key: str) -> None:
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            _check_range(item, metadata, f"{key}[{index}]")
    elif isinstance(value, int | float):
        least, above, most = (metadata.get(name) for name in ("least", "above", "most"))
        too_low = (least is not None and value < least) or (above is not None and value <= above)
        if too_low or (most is not None and value > most):
            raise UserError(f"{key}: {shown(value)} is out of range; it must be {_range(metadata)}")


def shown(value: Any) -> str:
    """A value as a user would type it after ``key=``."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    return value if isinstance(value, str) else json.dumps(value, default=str)


class _TextLoader(yaml.BaseLoader):
    """YAML whose scalars stay text; a key given twice, of which YAML drops one, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        for key in keys:
            if keys.count(key) > 1:
                problem = f"'{key}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as dicts, lists and text. ``where`` names its place in the sentence of a syntax error."""
    try:
        return yaml.load(text, _TextLoader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: cannot be read as YAML: {problem or error}") from None


def read_file(path: Path | str, cls: type) -> dict[str, Any]:
    """A recipe file as one dict of dotted names, each known to ``cls``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path}: cannot be read ({reason}); --rcfg takes a recipe such as rcfgs/ep100.yaml") from None
    return flatten(parse_yaml(text, str(path)), cls, str(path))


def flatten(tree: Any, cls: type, where: str) -> dict[str, Any]:
    """Nested mappings as one dict of dotted names, each known to ``cls``; values are left as they are."""
    keys = options(cls)
    if tree in (None, ""):
        return {}
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: holds {shown(tree)}, where key: value lines are expected")
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        is_group = any(known.startswith(f"{prefix}.") for known in keys)
        if prefix in keys:
            flat[prefix] = node
        elif isinstance(node, Mapping) and (is_group or not prefix):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        elif not is_group:
            raise UserError(f"{where}: unknown key {prefix}{_nearest(prefix, keys)}")
        elif node not in (None, ""):
            raise UserError(f"{where}: {prefix} is a group of keys and takes no value of its own")

    walk(tree, "")
    return flat


def _nearest(key: str, keys: Mapping[str, Field]) -> str:
    leaf = key.rpartition(".")[2]
    same_leaf = [known for known in keys if known.rpartition(".")[2] == leaf]
    leaves = {known.rpartition(".")[2]: known for known in keys}
    close = same_leaf or difflib.get_close_matches(key, keys, n=1)
    close = close or [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1)]
    return f"; did you mean {close[0]}?" if close else "; --help lists the keys"


def parse_override(word: str, cls: type) -> dict[str, Any]:
    """One ``dotted.key=value`` word of the command line as a dict of dotted names."""
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{word} is not of the form key=value")
    hint = _hint(cls, key)
    # Text is taken as typed: a path may hold what YAML would read as punctuation.
    value = value if hint in (str, str | None) else parse_yaml(value, key)
    return flatten({key: value}, cls, "command line")


def _hint(cls: type, key: str) -> Any:
    for name in key.split("."):
        cls = typing.get_type_hints(cls).get(name) if is_dataclass(cls) else None
    return cls


def build(cls: type, flat: Mapping[str, Any], prefix: str = "") -> Any:
    """A configuration from a dict of dotted names; what is not in the dict keeps its default."""
    hints, arguments = typing.get_type_hints(cls), {}
    for f in fields(cls):
        key = prefix + f.name
        if is_dataclass(hints[f.name]):
            arguments[f.name] = build(hints[f.name], flat, f"{key}.")
        elif key in flat:
            arguments[f.name] = flat[key]
    return cls(**arguments)


def values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a configuration by its dotted name."""
    found = {}
    for f in fields(config):
        value = getattr(config, f.name)
        found |= values(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return found


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    tuple, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def dump(config: Any) -> str:
    """A configuration as YAML, complete and in order of declaration; lists on one line."""

    def tree(node: Any) -> Any:
        return {f.name: tree(getattr(node, f.name)) for f in fields(node)} if is_dataclass(node) else node

    return yaml.dump(tree(config), Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def help_text(cls: type) -> str:
    """Every key with its default, type and doc, for ``--help``."""
    lines: list[str] = []
    last_group = None
    for key, f in options(cls).items():
        group_name = key.rpartition(".")[0]
        if group_name != last_group and group_name:
            about = (_hint(cls, group_name).__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{group_name}: {about}"]
        last_group = group_name
        default = "" if f.default is MISSING else shown(f.default)
        kind = ", ".join(filter(None, [describe(_hint(cls, key)), _range(f.metadata)]))
        doc = textwrap.fill(f"{f.metadata['doc']} ({kind})", 94)
        lines += [f"  {key}={default}", textwrap.indent(doc, " " * 6)]
    return "\n".join(lines).strip("\n")
