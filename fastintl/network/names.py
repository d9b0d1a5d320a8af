"""The names of the backbones and of their first layers; importing this needs no torch.

A backbone is one of ``ARCHITECTURES``, or one that is built by name: ``timm:NAME``, ``torchvision:NAME``, or
``package.module:function`` of the user's own. Options of what builds it may follow, with commas:
``timm:vit_tiny_patch16_224,patch_size=8``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from loaders.errors import UserError

ARCHITECTURES = (
    "resnet8",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
STEMS = ("imagenet", "cifar", "cifar_padded", "small")
LIBRARIES = ("timm", "torchvision")

_WORD = r"[^\W\d]\w*"
_FORM = re.compile(rf"(?P<home>{_WORD}(\.{_WORD})*):(?P<name>\w[\w.-]*)(?P<options>(,{_WORD}=[\w.+-]+)*)")
_FORMS = "timm:NAME, torchvision:NAME or package.module:function"
_WORDS = {"true": True, "false": False, "none": None}
Value = int | float | bool | str | None


@dataclass(frozen=True)
class NamedNetwork:
    """A backbone that is built by name.

    Attributes:
        home: "timm", "torchvision", or the module of the user's own function.
        name: of the network there, or of the function.
        options: what is handed to whatever builds it.
    """

    home: str
    name: str
    options: dict[str, Value]

    @property
    def is_own(self) -> bool:
        """Whether building it imports a module of the user's own, which no file of weights may ask for."""
        return self.home not in LIBRARIES


def named_network(arch: str) -> NamedNetwork | None:
    """What a name of another form than those of ``ARCHITECTURES`` says; None for those.

    Raises:
        UserError: it is neither; the sentence says the nearest known one.
    """
    if arch in ARCHITECTURES:
        return None
    found = _FORM.fullmatch(arch)
    if found is None:
        raise unknown("arch", arch, ARCHITECTURES, f", {_FORMS}, with options as in timm:NAME,depth=6")
    pairs = (pair.partition("=") for pair in found["options"].split(",")[1:])
    return NamedNetwork(found["home"], found["name"], {key: _value(text) for key, _, text in pairs})


def unknown(what: str, name: str, known: Sequence[str], more: str = "") -> UserError:
    """What to say of a name that is none of the known ones; names the nearest."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return UserError(f"unknown {what} {name!r}; did you mean {nearest!r}? Known: {', '.join(known)}{more}")


def _value(text: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
