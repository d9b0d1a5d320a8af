"""The benchmark runs every contender and writes what it measured; how fast anything is, is no test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import warm_python
from tools.benchmark.contenders import Contender
from tools.benchmark.results import print_results

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: object, env: dict[str, str] | None = None, launcher: tuple = ()) -> subprocess.CompletedProcess:
    command = [*launcher, sys.executable, ROOT / "tools" / "bench.py", *map(str, words)]
    if launcher:
        return subprocess.run(command, capture_output=True, text=True, timeout=300)
    return warm_python.run(command, env={**os.environ, **(env or {})})


@pytest.mark.slow
def test_every_loader_that_can_run_is_measured(image_beton, tmp_path):
    pytest.importorskip("ffcv")
    pytest.importorskip("nvidia.dali")
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "crops:\n  sizes: [24, 16]\n  scales: [[0.2, 1.0], [0.1, 0.5]]\n  blur: [1, 1]\n  solarize: [0, 0]\n"
    )
    target = tmp_path / "out" / "loader.json"
    words = ("--rounds", 2, "--seconds", 0.05, "--batch-size", 8, "--rcfg", recipe, "--json", target)
    run = bench("loader", "--data", image_beton, *words)
    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    assert result["images"] == 60 and result["views"] == [24, 16] and result["surroundings"]["packages"]["torch"]
    for contender in result["contenders"]:
        assert contender["error"] is None, contender
        assert len(contender["images_per_second"]) == 2 and min(contender["images_per_second"]) > 0
        assert contender["name"] in run.stdout
    names = {contender["name"] for contender in result["contenders"]}
    assert {"ffcv", "dali", "memory", "folder", "PIL, six pipelines", "DALI native, CPU"} <= names
    assert all(target["measured"] > 0 for target in result["targets"])


def test_what_a_user_gets_wrong_is_one_sentence(tmp_path):
    for words in (("--data", tmp_path / "none"), ("--data", tmp_path, "--rounds", 0)):
        run = bench("loader", *words)
        assert run.returncode == 2 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1


def test_every_way_to_take_the_step_is_measured(tmp_path):
    target = tmp_path / "step.json"  # compiling takes minutes and is tested elsewhere
    run = bench("step", "--rounds", 2, "--steps", 1, "--json", target, env={"TORCHDYNAMO_DISABLE": "1"})
    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    names = [row["name"] for row in result["contenders"]]
    assert names[0].startswith("authors' way") and names[-1] == "all together" and len(names) == 6
    for row in result["contenders"]:
        assert row["error"] is None and len(row["seconds"]) == 2 and row["first_step_seconds"] > 0, row
        assert 0 < row["share_of_matrix_rate"] < 1 and row["name"] in run.stdout
    assert result["flops_of_a_step"] > 0 and len(result["matrix_rates"][0]) == 2
    assert result["surroundings"]["command"][2] == "step"


def test_training_is_timed_beside_the_step_alone(image_folder, tmp_path):
    from tools.benchmark.options import TINY

    target = tmp_path / "train.json"
    words = ("--data", image_folder, "--rounds", 2, "--steps", 2, "--json", target)
    run = bench("train", *words, *TINY, "train.device=cpu", "data.source=folder")
    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    assert len(result["images_per_second"]) == 2 and result["ratio"] > 0
    assert all(0 <= share <= 1 for share in result["data_wait"]) and "waiting for data" in run.stdout


def test_every_way_of_training_heads_is_measured(tmp_path):
    target = tmp_path / "probe.json"
    small = ("--samples", 300, "--channels", 8, "--classes", 3, "--epochs", 1, "--rounds", 2)
    run = bench("probe", *small, "--json", target)
    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    for contender in result["contenders"]:
        assert contender["name"] in run.stdout
        assert contender["missing"] or len(contender["seconds"]) == 2 and min(contender["seconds"]) > 0
    assert result["ratios"]["40 heads at once / one head"] > 0


def test_every_search_is_measured_and_finds_the_same(tmp_path):
    words = ("--features", 3000, "--queries", 40, "--channels", 32, "--rounds", 2, "--json", tmp_path / "knn.json")
    run = bench("knn", *words)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "knn.json").read_text())
    assert result["features"] == 3000 and result["surroundings"]["packages"]["torch"]
    for contender in result["contenders"]:
        assert contender["name"] in run.stdout
        assert contender["missing"] or len(contender["seconds"]) == 2
        assert contender["agrees"] in (None, 1.0)
    assert bench("knn", "--k", 0).returncode == 2


def test_a_search_in_a_mapped_file_is_measured_without_a_copy_of_it(tmp_path):
    # A search of some tenths of a second: in a shorter one nobody would have looked at the memory.
    size = ("--features", 300000, "--queries", 400, "--channels", 64, "--rounds", 1)
    run = bench("knn", *size, "--mapped", tmp_path, "--json", tmp_path / "knn.json")
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "knn.json").read_text())
    assert [c["name"] for c in result["contenders"] if not c["seconds"]] == [] and len(result["contenders"]) == 3
    assert 0 < result["contenders"][0]["memory_bytes"] < 300000 * 64 * 4
    assert "50,000 queries at this rate" in run.stdout
    assert not list(tmp_path.glob("*/features.npy"))


def test_the_cure_for_who_is_left_out_is_printed_whole(capsys):
    print_results([], [Contender("faiss-cpu", None, error="pip install -e '.[bench]'")])
    assert capsys.readouterr().out == "left out: faiss-cpu: pip install -e '.[bench]'\n"


def test_every_way_of_converting_is_measured(image_folder, tmp_path):
    pytest.importorskip("ffcv")
    target = tmp_path / "convert.json"
    one_core = ("taskset", "-c", str(min(os.sched_getaffinity(0))))  # half the conversions
    run = bench("convert", "--data", image_folder, "--rounds", 1, "--json", target, launcher=one_core)
    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    assert result["images"] == 60 and result["megabytes"] > 0
    names = {row["name"] for row in result["contenders"]}
    alone = {"our decoder and encoder alone", "decode alone"}
    assert names == {"PIL loop", "FFCV's DatasetWriter", "ours"} | alone
    for row in result["contenders"]:
        assert row["error"] is None and row["images_per_second"][0] > 0 and row["peak_bytes"] > 0, row
        assert row["name"] in run.stdout


def test_what_was_measured_is_drawn_and_the_same_file_gives_the_same_bytes(tmp_path):
    results = sorted((ROOT / "docs/benchmarks").glob("*.json"))
    for folder in ("once", "again"):
        run = bench("plot", *results, "--out", tmp_path / folder)
        assert run.returncode == 0, run.stderr
    drawn = sorted((tmp_path / "once").glob("*.svg"))
    assert {"loader_cpu", "step_cpu", "train_cpu"} <= {path.stem for path in drawn}
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
        assert "<svg" in path.read_text() and path.stat().st_size < 50_000
    assert "PIL, six pipelines" in (tmp_path / "once/loader_cpu.svg").read_text()
    (tmp_path / "no.json").write_text("{}")
    assert bench("plot", tmp_path / "no.json").returncode == 2


def measured(path, ranks_share=32, part="step", **changes):
    """A result as ``step`` or ``train`` writes it, of made-up rates."""
    from fastintl import config

    made = config.load(ROOT / "rcfgs/ep100.yaml", [f"train.batch_size={ranks_share}"])
    rates = {"authors' way": 100.0, "all together": 500.0, "+ compile": 700.0, "all together + graphs": None}
    rows = [{"name": name, "images_per_second": rate} for name, rate in rates.items()]
    result = {
        "benchmark": part,
        "surroundings": {"gpu": "Some GPU", "cpu": "Some CPU"},
        "config": config.to_yaml(made),
        "contenders": rows,
        **changes,
    }
    path.write_text(json.dumps(result))
    return path


def test_hours_follow_from_a_measured_rate_and_from_nothing_else(tmp_path):
    words = ("estimate", "--rcfg", ROOT / "rcfgs/ep100.yaml", "--gpus", 8)
    images = 1_281_167 // 256 * 256 * 100
    step = measured(tmp_path / "step.json")
    run = bench(*words, "--step", step, "--json", tmp_path / "out.json")
    assert run.returncode == 0 and "Some GPU" in run.stdout, run.stderr
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["gpu_hours"] == pytest.approx(images / 500 / 3600) and row["bottleneck"] == "step"
    assert row["hours"] * 8 == pytest.approx(row["gpu_hours"])

    # A host that feeds less than the step takes is what bounds the run.
    host = [{"name": "ffcv", "function": "decode_only", "cores": 2, "median_images_per_second": 1500.0}]
    loader = tmp_path / "loader.json"
    loader.write_text(json.dumps({"benchmark": "loader", "surroundings": {"cpu": "Some CPU"}, "contenders": host}))
    run = bench(*words, "--step", step, "--loader", loader, "--json", tmp_path / "out.json")
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["bottleneck"] == "loader" and row["hours"] == pytest.approx(images / 1500 / 3600)

    # Training under torchrun has loader and exchange in it.
    rates = {"ranks": 8, "ratio": 0.8, "images_per_second": [3000.0], "data_wait": [0.2]}
    train = measured(tmp_path / "train.json", 256, "train", **rates)
    run = bench(*words, "--step", train, "--json", tmp_path / "out.json")
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["bottleneck"] == "loader" and row["hours"] == pytest.approx(images / 3000 / 3600)


def test_no_rate_is_invented(tmp_path):
    step = measured(tmp_path / "step.json")
    for name, *words in (("ep100", 4), ("ep800_two_crop", 8), ("ep100", 8, "model.arch=resnet18")):
        run = bench("estimate", "--rcfg", ROOT / f"rcfgs/{name}.yaml", "--step", step, "--gpus", *words)
        assert run.returncode == 2 and run.stderr.startswith("error: no step of "), run.stdout
    run = bench("estimate", "--rcfg", ROOT / "rcfgs/ep100.yaml", "--gpus", 3)
    assert run.returncode == 2 and "shared evenly" in run.stderr


def test_where_nothing_was_measured_what_was_counted_bounds_the_rate(tmp_path):
    parts = [
        {"bytes_moved": 3.35e10, "flops": 1e12, "float32": True},
        {"bytes_moved": 0, "flops": 98.9e12, "float32": False},
    ]
    count = measured(tmp_path / "count.json", 256, "count", ranks=8, parts=parts)
    words = ("estimate", "--rcfg", ROOT / "rcfgs/ep100.yaml", "--gpus", 8, "--json", tmp_path / "out.json")
    run = bench(*words, "--step", count)
    assert run.returncode == 0 and "counted, not measured" in run.stdout, run.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    rates = {row["machine"]: row["images_per_second"] for row in rows}
    assert rates["H100"] == pytest.approx(256 / (1 / 66.9 + 0.1))  # 67 TFLOP/s in float32, 989 on the matrix units
    assert rates["V100"] == pytest.approx(256 / (1 / 15.7 + 98.9 / 125))
    assert rates["A100"] == pytest.approx(256 / (1 / 19.5 + 98.9 / 312))
    run = bench(*words, "--step", count, measured(tmp_path / "step.json"))
    assert run.returncode == 0 and "counted" not in run.stdout


def test_crops_that_grow_take_the_hours_of_their_stages(tmp_path):
    words = ("estimate", "--rcfg", ROOT / "rcfgs/ep100.yaml", "crops.grow=[0.625,70]", "--gpus", 8)
    out, images = tmp_path / "out.json", 1_281_167 // 256 * 256 * 100
    run = bench(*words, "--step", measured(tmp_path / "step.json"), "--json", out)
    assert run.returncode == 0 and "its crops grow: 0.749 of the operations of full size" in run.stdout, run.stderr
    result = json.loads(out.read_text())
    works = [stage["work"] for stage in result["stages"]]
    assert [stage["share"] for stage in result["stages"]] == pytest.approx([0.35, 0.35, 0.3]) and works[-1] == 1
    areas = [sum(side**2 for side in stage["sides"]) for stage in result["stages"]]
    assert works == pytest.approx([area / areas[-1] for area in areas], abs=0.05)  # about
    assert result["work"] == pytest.approx(0.35 * works[0] + 0.35 * works[1] + 0.3)
    assert result["rows"][0]["gpu_hours"] == pytest.approx(result["work"] * images / 500 / 3600)
    # A host that feeds no stage faster than at full size: the loader takes as long in all of them.
    host = [{"name": "ffcv", "function": "decode_only", "cores": 2, "median_images_per_second": 1500.0}]
    loader = tmp_path / "loader.json"
    loader.write_text(json.dumps({"benchmark": "loader", "surroundings": {"cpu": "Some CPU"}, "contenders": host}))
    run = bench(*words, "--step", tmp_path / "step.json", "--loader", loader, "--json", out)
    row = json.loads(out.read_text())["rows"][0]
    assert row["bottleneck"] == "loader" and row["hours"] == pytest.approx(images / 1500 / 3600)
