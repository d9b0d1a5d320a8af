"""The mechanics of typed configuration: YAML text and ``key=value`` words in, frozen dataclasses out.

Knows nothing of any particular key; the keys are declared in ``fastintl/config/keys.py`` and
``fastintl/detection/config.py``. YAML gives every scalar as text here, and the declared type of a key decides what
the text means: ``1e-5`` is a number where a number is declared, ``off`` stays a word where a word is declared.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import textwrap
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from fastintl.config import recipes
from fastintl.config.values import check_range, convert, describe, describe_range, shown
from loaders.errors import UserError

_type_hints = functools.cache(typing.get_type_hints)  # of a class: it reads them anew each time, from their text


def option(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    result: bool | None = None,
    work: bool | None = None,
) -> Any:
    """Declares one key.

    Args:
        default: its value where nothing sets it.
        doc: what it means, a sentence for ``--help``.
        least, above, most: the range of it, or of each item of its list.
        result: whether another value trains to another result, so that a run resumes only with the same; None: as its
            group says.
        work: whether another value changes the arithmetic of a training step, and so its time; None likewise.
    """
    ranges = {"least": least, "above": above, "most": most}
    return field(default=default, metadata={"doc": doc, **ranges, "result": result, "work": work})


def side_option(default: Any, doc: str, **ranges: float) -> Any:
    """Declares a key that changes how a run goes, and not what it trains to."""
    return option(default, doc, result=False, **ranges)


def group(cls: type) -> Any:
    """Declares a group of keys, itself a subclass of ``Options``."""
    return field(default_factory=cls)


class Options:
    """Base of a frozen dataclass of keys; every value is converted to its declared type and checked.

    ``key`` is the dotted prefix of its keys, for the sentences: ``class Train(Options, key="train")``. ``result`` and
    ``work`` hold for those of its keys that do not say otherwise, see ``option``.
    """

    _key = ""
    _says: Mapping[str, bool] = {"result": True, "work": False}

    def __init_subclass__(cls, key: str = "", result: bool = True, work: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._key = f"{key}." if key else ""
        cls._says = {"result": result, "work": work}

    def __post_init__(self) -> None:
        hints = _type_hints(type(self))
        for f in fields(self):
            if not is_dataclass(hints[f.name]):
                key = self._key + f.name
                value = convert(getattr(self, f.name), hints[f.name], key)
                check_range(value, f.metadata, key)
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
    hints = _type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            found |= options(hints[f.name], f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = f
    return found


class _TextLoader(yaml.BaseLoader):
    """YAML whose scalars stay text. A key given twice, of which YAML drops one, is an error, and so is a ``*name``, by
    which a few lines can hold themselves or billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"*{event.anchor} stands for another value, which must be written out here"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

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
        reason = " ".join(str(problem or error).split())
        raise UserError(f"{where}{line}: cannot be read as YAML: {reason}") from None
    except RecursionError:
        raise UserError(f"{where}: cannot be read as YAML: it is nested too deeply") from None


def read_file(rcfg: Path | str, cls: type) -> dict[str, Any]:
    """A recipe (a file, or a name as ``recipes.find`` takes it) as one dict of dotted names, each known to ``cls``."""
    return flatten(parse_yaml(recipes.read(rcfg), str(rcfg)), cls, str(rcfg))


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
        cls = _type_hints(cls).get(name) if is_dataclass(cls) else None
    return cls


def build(cls: type, flat: Mapping[str, Any], prefix: str = "") -> Any:
    """A configuration from a dict of dotted names; what is not in the dict keeps its default."""
    hints, arguments = _type_hints(cls), {}
    for f in fields(cls):
        key = prefix + f.name
        if is_dataclass(hints[f.name]):
            arguments[f.name] = build(hints[f.name], flat, f"{key}.")
        elif key in flat:
            arguments[f.name] = flat[key]
    return cls(**arguments)


def load(cls: type, rcfg: Path | str | None, overrides: Sequence[str], name: str) -> Any:
    """The configuration of a recipe file (None: the defaults) overridden by ``key=value`` words.

    Args:
        name: value of the key ``name`` where it is null.
    """
    flat = read_file(rcfg, cls) if rcfg else {}
    for word in overrides:
        flat |= parse_override(word, cls)
    config = build(cls, flat)
    return config if config.name is not None else replace(config, name=name)


def from_dict(cls: type, tree: Mapping[str, Any], where: str = "configuration") -> Any:
    """A configuration from nested dicts; keys that are missing keep their defaults."""
    return build(cls, flatten(tree, cls, where))


def from_yaml(cls: type, text: str, where: str = "configuration") -> Any:
    """The inverse of ``dump``. ``where`` names the text's place in the sentences on what is wrong with it."""
    return from_dict(cls, parse_yaml(text, where), where)


def keys_that_change(cls: type, what: str, prefix: str = "") -> set[str]:
    """Dotted names of the keys of a configuration class that change ``what``, "result" or "work" (see ``option``)."""
    hints, found = _type_hints(cls), set()
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            found |= keys_that_change(hints[f.name], what, f"{prefix}{f.name}.")
        elif cls._says[what] if f.metadata[what] is None else f.metadata[what]:
            found.add(prefix + f.name)
    return found


def differences(a: Any, b: Any, what: str | None = None) -> list[str]:
    """Dotted names of the keys on which two configurations of one class differ.

    Args:
        what: only those that change it, see ``keys_that_change``; None is all.
    """
    theirs = values(b)
    relevant = theirs if what is None else keys_that_change(type(a), what)
    return [key for key, value in values(a).items() if value != theirs[key] and key in relevant]


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


class KeyHelp(argparse.Action):
    """``--help``, and ``--help GROUP`` for the keys of one group of a configuration class."""

    def __init__(self, option_strings: Sequence[str], dest: str, cls: type) -> None:
        text = "show this help; of one group of keys alone: --help optim"
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", metavar="GROUP", help=text)
        self._cls = cls

    def __call__(self, parser: argparse.ArgumentParser, namespace, group, option_string=None) -> None:
        print(parser.format_help().rstrip("\n") if group is None else help_text(self._cls, group))
        parser.exit()


def help_text(cls: type, only: str | None = None) -> str:
    """Every key with its default, type and doc, for ``--help``.

    Args:
        only: a group, whose keys alone are listed.

    Raises:
        UserError: there is no such group.
    """
    lines: list[str] = []
    last_group = None
    groups = list(dict.fromkeys(key.rpartition(".")[0] for key in options(cls) if "." in key))
    if only is not None and only not in groups:
        raise UserError(f"--help {only}: there is no such group of keys; there are {', '.join(groups)}")
    for key, f in options(cls).items():
        group_name = key.rpartition(".")[0]
        if only not in (None, group_name):
            continue
        if group_name != last_group and group_name:
            about = (_hint(cls, group_name).__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{group_name}: {about}"]
        last_group = group_name
        default = "" if f.default is MISSING else shown(f.default)
        kind = ", ".join(filter(None, [describe(_hint(cls, key)), describe_range(f.metadata)]))
        doc = textwrap.fill(f"{f.metadata['doc']} ({kind})", 94)
        lines += [f"  {key}={default}", textwrap.indent(doc, " " * 6)]
    return "\n".join(lines).strip("\n")
