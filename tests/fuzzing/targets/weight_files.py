"""Files of weights, their bytes changed or their content of another kind: the weights bit for bit, or one sentence."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

from fastintl.network.model import build_backbone
from fastintl.weights.backbone import load_backbone
from tests.fuzzing import refusals
from tests.fuzzing.targets.beton import changed

_place = st.one_of(st.integers(0, 4000), st.integers(-6000, -1), st.integers(0, 10**7))
_change = st.one_of(
    st.tuples(st.just("set"), _place, st.integers(0, 255)),
    st.tuples(st.just("add"), _place, st.integers(1, 255)),
    st.tuples(st.just("cut"), _place, st.just(0)),
    st.tuples(st.just("put in"), _place, st.integers(1, 64)),
    st.tuples(st.just("take out"), _place, st.integers(1, 64)),
)


def _dict(values: st.SearchStrategy) -> st.SearchStrategy:
    names = st.sampled_from(["state_dict", "model", "arch", "config", "stem", "conv1.weight", "module.fc.bias"])
    return st.dictionaries(st.one_of(names, st.text(max_size=8), st.integers()), values, max_size=4)


_leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8))
_value = st.recursive(_leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), _dict(inner)), max_leaves=8)
_kinds = ("sparse", "complex", "float64", "int64", "scalar", "empty", "bfloat16", "renamed", "lost", "not a tensor")
_content = st.one_of(
    st.tuples(st.just("bytes"), st.sampled_from([".pt", ".safetensors"]), st.lists(_change, min_size=1, max_size=3)),
    st.tuples(st.just("values"), st.just(".pt"), _value),
    st.tuples(st.just("tensor"), st.just(".pt"), st.tuples(st.integers(0, 200), st.sampled_from(_kinds))),
    st.tuples(st.just("beside"), st.just(".pt"), _dict(_value)),
)
_arch, _stem = st.sampled_from([None, "resnet8", "resnet18"]), st.sampled_from([None, "small", "cifar"])
examples = st.tuples(_content, _arch, _stem)
IN_SUITE = 10


def check(example: tuple[tuple, str | None, str | None]) -> None:
    (what, suffix, change), arch, stem = example
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(_bytes(what, suffix, change))
        with refusals():
            found = load_backbone(path, arch, stem=stem).state_dict()
            if what == "tensor":
                return  # its numbers are others, and it is of the right shape
            for name, value in weights().items():
                # A safetensors file has no checksum: of its numbers nobody can know.
                assert found[name].shape == value.shape
                assert suffix == ".safetensors" or torch.equal(found[name], value), name


def _bytes(what: str, suffix: str, change) -> bytes:
    if what == "bytes":
        return changed(whole(suffix), change)
    content = change
    if what == "beside":
        content = {**change, **weights()}
    if what == "tensor":
        number, kind = change
        content = dict(weights())
        name = list(content)[number % len(content)]
        content |= _changed_tensor(name, content.pop(name), kind)
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _changed_tensor(name: str, value: Tensor, kind: str) -> dict:
    if kind == "renamed":
        return {f"{name}.": value}
    if kind == "lost":
        return {}
    if kind == "not a tensor":
        return {name: 1.0}
    if kind == "sparse":
        return {name: value.to_sparse()}
    if kind == "scalar":
        return {name: value.float().mean()}
    if kind == "empty":
        return {name: value.new_empty(0)}
    return {name: value.to(getattr(torch, "complex64" if kind == "complex" else kind))}


@functools.cache
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build_backbone("resnet8", "small").state_dict())


@functools.cache
def whole(suffix: str) -> bytes:
    if suffix == ".pt":
        file = io.BytesIO()
        torch.save({"arch": "resnet8", "state_dict": weights()}, file)
        return file.getvalue()
    from safetensors.torch import save

    return save(weights(), {"arch": "resnet8", "stem": "small"})
