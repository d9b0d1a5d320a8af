"""README and docs say nothing that a reader cannot type: every command is parsed, every example runs, every file is
there. ``test_docs_run.py`` runs the commands."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

from fastintl import config
from fastintl.detection import config as detection
from fastintl.network.model import build_backbone
from fastintl.weights.export import export
from loaders.beton.convert import convert
from loaders.datasets.folder import folder_splits
from tests.helpers import documents, named_data
from tests.helpers.documents import PAGES, ROOT
from tests.test_setup_files import PROJECT

COMMANDS = documents.commands()
EXAMPLES = [block for block in documents.blocks() if block.language == "python"]


class Parsed(BaseException):
    """Carries what a tool's parser understood past everything that the tool would do with it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


def parse(script: Path, words: list[str]) -> argparse.Namespace:
    """Runs a script up to the end of its argument parsing."""

    def stopping_after(original):
        def stop(parser, args=None, namespace=None):
            raise Parsed(original(parser, args, namespace))

        return stop

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stopping_after(getattr(argparse.ArgumentParser, name)))
        patch.setattr(sys, "argv", [str(script), *words])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except Parsed as parsed:
            return parsed.arguments
        except SystemExit as error:
            if error.code == 0:  # --help
                return argparse.Namespace()
            pytest.fail(f"{script.name} refuses {words}: status {error.code}")
    pytest.fail(f"{script.name} parses no arguments")


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        module, *words = words[1:]
        if module in ("pip", "pytest", "ruff"):
            return
        assert module.split(".")[0] in ("fastintl", "loaders"), f"unknown module {module}"
        script = ROOT / f"{module.replace('.', '/')}.py"
    else:
        script, words = ROOT / words[0], words[1:]
    source = script.read_text()
    if "ArgumentParser(" not in source:  # it would run
        assert not words or "sys.argv" in source or "argument_parser" in source, f"{script.name} takes no arguments"
        return
    arguments = vars(parse(script, words))  # with the options of a recipe of rcfgs/eval, where one is named
    recipe, overrides = arguments.get("rcfg"), arguments.get("overrides") or []
    if script.name == "detect.py":
        detection.load(recipe or ROOT / "rcfgs/detection/voc0712.yaml", overrides)
    elif (recipe or overrides) and "rcfgs/eval" not in str(recipe):
        config.load(recipe, overrides)


def check_fastintl(words: list[str]) -> None:
    if not words[0].startswith("-"):
        modules = {"train": "fastintl/train.py", "crops": "tools/show_crops.py"}
        check_python([modules.get(words[0], f"tools/{words[0].replace('-', '_')}.py"), *words[1:]])


def check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    arguments = get_args_parser().parse_args(words)
    check_python([*(["-m"] if arguments.module else []), arguments.training_script, *arguments.training_script_args])


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    asked = [word for word in words if "=" not in word]
    assert set(asked) <= set(targets), f"the Makefile has no target {set(asked) - set(targets)}"


def check_pip(words: list[str]) -> None:
    extras = PROJECT["optional-dependencies"]
    for option, value in zip(words, words[1:], strict=False):
        assert option not in ("-c", "-r") or (ROOT / value).is_file(), value
    for named in re.findall(r"\.\[([\w,-]+)\]", " ".join(words)):
        assert set(named.split(",")) <= set(extras), f"pyproject.toml has no extra {named}"


def check_files(words: list[str]) -> None:
    for word in words:
        assert not word.endswith((".yml", ".sbatch")) or (ROOT / word).is_file(), word


CHECKS = {
    "python": check_python,
    ".venv/bin/python": check_python,
    "fastintl": check_fastintl,
    "torchrun": check_torchrun,
    "make": check_make,
    "pip": check_pip,
    ".venv/bin/pip": check_pip,
}


def test_there_is_something_to_check():
    shown = [" ".join(command.words) for command in COMMANDS]
    assert any(text.startswith("python -m fastintl.train --rcfg") for text in shown)
    assert any(text.startswith("torchrun") for text in shown) and "make demo" in shown
    assert any(text.startswith("python tools/finetune.py") for text in shown)  # in backticks, over two lines


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *words = command.words
    CHECKS.get(program, check_files)(words)


def test_commands_of_the_readme_fit_a_terminal():
    blocks = [block for block in documents.blocks() if block.page.name == "README.md" and block.language in ("", "sh")]
    assert blocks and not [line for block in blocks for line in block.text.splitlines() if len(line) > 80]


def test_what_is_wrong_is_noticed(monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = [
        (check_python, ["tools/knn.py", "runs/mine", "--trian", "a", "--val", "b"], BaseException),
        (check_python, ["-m", "fastintl.train", "--rcfg", "rcfgs/ep100.yaml", "train.epoch=3"], Exception),
        (check_python, ["-m", "fastintl.train", "--rcfg", "rcfgs/none.yaml"], Exception),
        (check_python, ["tools/none.py"], Exception),
        (check_fastintl, ["train", "--rcfg", "ep10"], Exception),
        (check_torchrun, ["--nproc-a-node", "8", "-m", "fastintl.train"], BaseException),
        (check_make, ["dmeo"], AssertionError),
        (check_pip, ["install", "-e", ".[none]"], AssertionError),
    ]
    for check, words, error in wrong:
        with pytest.raises(error):
            check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", documents.prose(page))
    folders = "tools|rcfgs|docs|fastintl|loaders|tests|examples"
    named = [text for _, text in documents.spans(page) if re.fullmatch(rf"(?:{folders})/[\w./-]*\w\.\w+", text)]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing + [name for name in named if not (ROOT / name).exists()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A clone with a user's images, 96 of three classes, their conversion, and the folder of a run."""
    root = tmp_path_factory.mktemp("clone")
    named_data.link_code(root)
    named_data.write_images(root / "images")
    for part, split in folder_splits(root / "images", 0.2).items():
        convert(split, root / "data" / f"folder_{part}.beton")
    (root / "runs/mine").mkdir(parents=True)
    run = config.load(None, ["model.arch=resnet8", "model.stem=small"])
    (root / "runs/mine/config.yaml").write_text(config.to_yaml(run))
    export(build_backbone(run.model.arch, run.model.stem), root / "runs/mine/backbone.pt")
    return root


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_python_example_runs(example, place, monkeypatch):
    monkeypatch.chdir(place)
    exec(compile(example.text, str(example), "exec"), {"__name__": "__main__"})


def sentences() -> list[str]:
    """Every text that the source can say, with … for what is filled in."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(text(value) for value in node.values)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"

    found = [(ROOT / "tools/setup.sh").read_text()]
    for path in (*ROOT.glob("fastintl/**/*.py"), *ROOT.glob("loaders/**/*.py"), *ROOT.glob("tools/**/*.py")):
        tree = ast.parse(path.read_text())
        found += [text(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
    return found


def test_every_error_that_is_explained_can_still_happen():
    page = ROOT / "docs/troubleshooting.md"
    source = set(sentences())
    # A bullet's sentences stand before its first "`: ", and every one has a space; keys and commands come after.
    bullets = re.findall(r"^- (`.+?`):(?= |\n)", documents.prose(page), re.M | re.S)
    quoted = [" ".join(span.split()) for bullet in bullets for span in re.findall(r"`([^`]+)`", bullet)]
    assert len(quoted) > 60

    def says(text: str, sentence: str) -> bool:
        position = 0
        for part in sentence.split("…"):
            position = text.find(part, position) + len(part)
            if position < len(part):
                return False
        return True

    assert not [sentence for sentence in quoted if not any(says(text, sentence) for text in source)]
