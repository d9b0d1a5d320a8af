"""Recipes and ``key=value`` words: a configuration that says the same when it is written and read, or one sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from hypothesis import strategies as st

from fastintl import config as configuration
from fastintl.config import options
from fastintl.config.keys import Config
from fastintl.training.optim import Schedule
from tests.fuzzing import refusals

_NAMES = list(options.options(Config))
_scalar = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["auto", "on", "off", "null", "~", "[]", "{}", "1e-5", ".nan", "-.inf", "a\0b", "../x", "[1,"]),
)  # fmt: skip
_value = st.one_of(_scalar, st.lists(_scalar, max_size=4), st.lists(st.lists(_scalar, max_size=3), max_size=3))
_tree = st.dictionaries(st.sampled_from(_NAMES), _value, max_size=5)
_text = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["&a [*a]", "a: &a {b: *a}", "- " * 3000, "[" * 3000, "train: {seed: 3, seed: 4}", "? [1]\n: 2"]),
)
_word = st.one_of(st.builds(lambda key, value: f"{key}={value}", st.sampled_from(_NAMES), _value), st.text(max_size=20))
examples = st.tuples(st.one_of(_tree, _text), st.lists(_word, max_size=3))


def check(example: tuple[dict | str, list[str]]) -> None:
    content, words = example
    with tempfile.TemporaryDirectory() as folder, refusals():
        path = Path(folder) / "recipe.yaml"
        if isinstance(content, str):
            path.write_text(content, errors="surrogatepass")
        else:
            path.write_text(yaml.safe_dump(_nested(content)))
        config = configuration.load(path, words)
        assert configuration.from_yaml(configuration.to_yaml(config)) == config
        rates = [Schedule.of(config, 3)(step) for step in (0, config.train.epochs * 3 - 1)]
        assert all(rate == rate for rate in rates)


def _nested(flat: dict) -> dict:
    tree: dict = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree
