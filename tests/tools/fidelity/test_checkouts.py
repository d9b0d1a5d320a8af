"""What is read from a checkout, and what is said where it is not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from loaders.errors import UserError
from tools.fidelity.checkouts import COMMANDS, Checkouts, Command

ROOT = Path(__file__).resolve().parents[3]
LISTING = r"""# comments stand between
python base/train.py --dataset cifar10 --num_samples 4 --bs 256

#two views
python base/train.py --dataset cifar10 --w_iter 4
python big/train.py \
  --md \
  --imagenet_path [your folder, with train and val] \
  --cov_w 0.005 \ #optional, a weight

# pre-train:
python main.py \
--lr 0.5 \
--multi-crop \

python evaluate.py \
--lr 0.4 \
"""


@pytest.fixture
def checkouts(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/all.sh").write_text(LISTING.rstrip("\n"))
    return Checkouts(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "script, pick, arguments",
    [
        ("base/train.py", "--num_samples 4", "--dataset cifar10 --num_samples 4 --bs 256"),
        ("base/train.py", "^(?!.*--num_samples)", "--dataset cifar10 --w_iter 4"),
        ("big/train.py", "", "--md --cov_w 0.005"),
        ("main.py", "", "--lr 0.5 --multi-crop"),
        ("evaluate.py", "", "--lr 0.4"),
    ],
)
def test_the_arguments_of_a_command(checkouts, script, pick, arguments):
    assert Command("intl", "scripts/all.sh", script, pick).arguments(checkouts) == arguments.split()


def test_a_command_that_is_not_there(checkouts):
    with pytest.raises(UserError, match=r"scripts/all.sh starts no main.py --fast: .* another version"):
        Command("intl", "scripts/all.sh", "main.py", "--fast").arguments(checkouts)


def test_every_recipe_of_the_two_papers_has_a_command():
    recipes = {str(path.relative_to(ROOT / "rcfgs").with_suffix("")) for path in ROOT.glob("rcfgs/**/*.yaml")}
    others = {name for name in recipes if name.startswith(("eval/", "detection/", "barlow_twins/", "fast/"))} | {"demo"}
    assert set(COMMANDS) == recipes - others


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"--intl": "nowhere"}, "--intl nowhere: there is no such folder; git clone https://github.com/winci-ai/INTL"),
        ({}, "holds no main.py: it must be a clone of https://github.com/winci-ai/INTL"),
        ({"--images": "1500"}, "--images 1500: the authors' evaluation wants a multiple of 1000"),
        ({"--minutes": "0"}, "--minutes and --seeds must be positive"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tmp_path, change, sentence):
    options = {"--intl": str(tmp_path), "--cw-rgp": str(tmp_path)} | change
    command = [
        sys.executable,
        str(ROOT / "tools/against_authors.py"),
        *(word for pair in options.items() for word in pair),
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and sentence in ended.stderr and ended.stderr.count("\n") == 1
