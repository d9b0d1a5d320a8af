"""The check of a GPU, as far as it goes without one."""

import json
import sys
from dataclasses import replace

import pytest

from loaders.environment import describe_environment
from tools.bench import main
from tools.benchmark.gpu import Part, carry_out, lines, parts
from tools.benchmark.options import TINY


def test_without_a_gpu_it_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(SystemExit) as ended:
        main(["gpu", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and "torch sees no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "program, verdict, said",
    [
        ("print('a'); print('b | c')", "passed", "b | c"),
        ("import sys; sys.exit('no')", "FAILED", "no"),
        ("import time; print('begun', flush=True); time.sleep(60)", "NOT DONE IN TIME", "begun"),
    ],
)
def test_a_part_that_fails_or_hangs_is_told(program, verdict, said, tmp_path):
    outcome = carry_out(Part("x", [sys.executable, "-c", program], 2), tmp_path / "x.log")
    assert (outcome.verdict, outcome.last_line, outcome.result) == (verdict, said, None)


def test_crops_that_differ_fail(tmp_path):
    result = tmp_path / "crops.json"
    words = f"import json; json.dump({{'engines': [{{'agrees': False}}]}}, open({str(result)!r}, 'w'))"
    assert carry_out(Part("crops", [sys.executable, "-c", words], 20, result), tmp_path / "x.log").verdict == "FAILED"


def test_all_parts_together_take_eight_minutes_at_most(tmp_path):
    assert sum(part.seconds for part in parts("cifar10", None, tmp_path, [])) <= 480


def test_its_page_shows_crops_and_training(image_folder, tmp_path):
    """The parts that a CPU can do, with a small network."""
    recipe = tmp_path / "empty.yaml"
    recipe.write_text("{}\n")
    words = [*TINY, "train.device=cpu", "data.source=folder"]
    planned = {part.name: part for part in parts(str(recipe), image_folder, tmp_path, words)}
    assert "images" not in planned  # they are given
    few = [*planned["crops"].command, "--images", "4", "--rounds", "1"]
    planned["crops"] = replace(planned["crops"], command=few)
    short = [*planned["uncompiled"].command, "--rounds", "1", "--steps", "3"]
    planned["uncompiled"] = replace(planned["uncompiled"], command=short)
    planned = {name: replace(part, seconds=200) for name, part in planned.items()}  # a busy machine
    outcomes = [carry_out(planned[name], tmp_path / f"{name}.log") for name in ("crops", "uncompiled")]
    assert [outcome.verdict for outcome in outcomes] == ["passed"] * 2, [outcome.last_line for outcome in outcomes]
    page = "\n".join(lines(outcomes, describe_environment()))
    engine = json.loads((tmp_path / "crops.json").read_text())["engines"][0]
    assert engine["agrees"] and f"| batched on cpu | {engine['mean_levels']:.3f} levels" in page
    assert "| uncompiled, Python threads | " in page
