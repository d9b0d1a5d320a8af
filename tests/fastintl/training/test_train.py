"""The training command end to end: what a run leaves, resuming, ranks, and what it refuses."""

import json
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
import torchvision

from loaders.beton.convert import convert
from loaders.datasets.folder import class_tree
from tests.helpers.processes import kill, wait_for
from tests.helpers.training import (
    ROOT,
    assert_close,
    assert_identical,
    command,
    distance,
    last_state,
    saved_step,
    start,
    train,
    train_on_ranks,
)


def test_a_run_leaves_its_results(finished):
    folder = finished / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 24 and summary["train_seconds"] > 0
    scores = summary["knn_top1"]
    assert list(scores) == ["chance", "raw_pixels", "untrained", "trained"]
    assert scores["chance"] == pytest.approx(1 / 3) and all(0 <= score <= 1 for score in scores.values())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(2, 25, 2))
    assert {"loss", "lr", "images_per_second", "data_wait", "epoch"} <= rows[-2].keys()
    assert [row["step"] for row in rows if "knn_top1" in row] == [12, 24]
    assert [row["step"] for row in rows if "first_step_seconds" in row] == [1]
    assert [row["step"] for row in rows if "spectrum" in row] == [24]
    assert (folder / "crops.png").read_bytes().startswith(b"\x89PNG")
    assert '<b class="good">finished</b> at step 24 of 24' in (folder / "report.html").read_text()
    start = json.loads((folder / "starts.jsonl").read_text().splitlines()[0])
    assert (start["step"], start["last_step"], start["ranks"]) == (0, 24, 1)
    assert start["packages"]["torch"] and start["command"][:3] == ["python", "-m", "fastintl.train"]
    assert len(list((folder / "checkpoints").iterdir())) == 2
    assert "train:\n  epochs: 4\n" in (folder / "config.yaml").read_text()


def test_the_learning_rate_and_the_loss_are_those_of_the_recipe(finished):
    rows = [json.loads(line) for line in (finished / "run" / "metrics.jsonl").read_text().splitlines()]
    lr = {row["step"]: row["lr"] for row in rows if "lr" in row}
    base = 0.5 * 8 / 256
    assert lr[6] == pytest.approx(base)  # the sixth step ends the warm-up of one epoch
    assert lr[24] == pytest.approx(0.001 * base)


def test_two_runs_of_one_seed_end_with_identical_weights_whatever_is_evaluated(finished, images, tmp_path):
    result = train(tmp_path, images, data__threads=2, eval__every=1, eval__probes="[linear,quick]")
    assert result.returncode == 0, result.stderr
    assert_identical(last_state(finished), last_state(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    probed = [row for row in rows if "linear_top1" in row]
    assert [row["step"] for row in probed] == [6, 12, 18, 24]
    names = ("knn_top1", "linear_top1", "linear_top5", "quick_top1", "quick_top5")
    assert all(0 <= row[name] <= 1 for row in probed for name in names)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["probes"] == {name: probed[-1][name] for name in ("linear_top1", "quick_top1")}
    assert "linear classifier" in result.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Linear classifier" in page and "L-BFGS classifier" in page


def test_a_finished_run_started_again_changes_nothing(finished, images):
    before = last_state(finished)
    result = train(finished, images, eval__baselines="true")
    assert result.returncode == 0 and "24 steps" in result.stdout
    assert_identical(before, last_state(finished))


@pytest.mark.parametrize(("ranks", "kills"), [(1, 2), (2, 1)])
def test_killed_at_random_steps_it_ends_with_the_same_weights(
    finished, finished_by_two, images, tmp_path, ranks, kills
):
    rng = random.Random(ranks)
    arguments = command(tmp_path, images, ranks, train__save_minutes=1e-6, train__max_steps=24)
    for step in sorted(rng.sample(range(2, 14), kills)):  # early, so that the kill never comes after the end
        process = start(arguments, tmp_path / "output.txt")
        wait_for(lambda step=step: saved_step(tmp_path) >= step, process)
        kill(process)
    result = train(tmp_path, images) if ranks == 1 else train_on_ranks(tmp_path, images, ranks)
    assert result.returncode == 0, result.stderr
    assert "resumed at step" in result.stderr
    assert_identical(last_state(finished if ranks == 1 else finished_by_two), last_state(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(2, 25, 2))  # none lost, none twice
    assert [row["step"] for row in rows if "knn_top1" in row] == [12, 24]
    assert not list((tmp_path / "run").rglob("*.writing"))


def test_two_ranks_train_like_one_and_resume_as_one(images, tmp_path):
    """To the tolerance of summation; a low learning rate, since a high one amplifies a rounding from step to step.

    And the first seed under which no value lies so close to zero that its rounding opens or closes a ReLU; which one
    that is depends on the processor.
    """

    def run(seed: int, folder: str, ranks: int, **changes) -> dict:
        out = tmp_path / f"{seed}" / folder
        changes |= {"train__epochs": 2, "optim__lr": 0.005, "eval__every": 0, "seed": seed}
        ended = train(out, images, **changes) if ranks == 1 else train_on_ranks(out, images, ranks, **changes)
        assert ended.returncode == 0
        return last_state(out)

    one, seed = next(
        (one, seed)
        for seed in (3, 2, 4, 5, 6)
        if distance(one := run(seed, "one", 1), run(seed, "two", 2)) <= 1e-4 and one["step"] == 12
    )
    assert run(seed, "mixed", 2, train__max_steps=5)["step"] == 5
    assert_close(one, run(seed, "mixed", 1), 1e-4)


def test_the_backbone_loads_into_torchvision(images, tmp_path):
    result = train(tmp_path, images, model__arch="resnet18", model__stem="imagenet", train__max_steps=1, eval__every=0)
    assert result.returncode == 0, result.stderr
    weights = torch.load(tmp_path / "run" / "backbone.pt", weights_only=True)
    missing, unexpected = torchvision.models.resnet18().load_state_dict(weights, strict=False)
    assert missing == ["fc.weight", "fc.bias"] and not unexpected


@pytest.mark.parametrize(
    "changes",
    [
        {"model__ema": "false", "loss__axis": "batch"},
        {"train__precision": "bf16"},
        {"log__wandb": "offline"},
        {"eval__bank": 20, "train__keep_every": 1},
    ],
)
def test_settings_that_a_cpu_can_show(images, tmp_path, changes):
    result = train(tmp_path, images, **{"train__max_steps": 6, **changes})
    assert result.returncode == 0, result.stderr
    state = last_state(tmp_path)
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not any("_orig_mod" in key or key.startswith("module.") for key in state["model"])
    assert any(key.startswith("target.") for key in state["model"]) == ("model__ema" not in changes)
    assert bool(state["wandb_id"]) == ("log__wandb" in changes)
    kept = tmp_path / "run" / "checkpoints" / "epoch_0001.pt"
    assert kept.exists() == ("train__keep_every" in changes)


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_trains_like_an_eager_one(images, tmp_path):
    states = []
    for compile in ("on", "off"):
        result = train(tmp_path / compile, images, train__compile=compile, train__max_steps=2)
        assert result.returncode == 0, result.stderr
        states.append(last_state(tmp_path / compile))
    compiled, eager = states
    assert compiled["model"].keys() == eager["model"].keys()
    assert_close(compiled, eager, 1e-4)
    for i, state in eager["optimizer"]["state"].items():  # the momenta are the gradients of both steps
        momentum = compiled["optimizer"]["state"][i]["momentum_buffer"]
        assert (momentum - state["momentum_buffer"]).norm() <= 1e-3 * state["momentum_buffer"].norm()


def test_a_compiled_run_without_a_compiler_ends_before_its_first_step(images, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    refused(train(tmp_path, images, train__compile="on"), "torch.compile needs a C++ compiler on a CPU and finds none")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """It exits with a single sentence that holds the words, and no traceback."""
    assert result.returncode != 0
    sentences = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and "Traceback" not in result.stderr, result.stderr
    assert all(word in sentences[0] for word in words), sentences[0]


def test_another_recipe_in_the_same_folder_is_refused(finished, images):
    result = train(finished, images, optim__lr=0.25, crops__hue=0.2)
    refused(result, "optim.lr", "crops.hue", "name=")


def test_other_images_in_the_same_folder_are_refused(finished, images):
    result = train(finished, None, data__train=images / "val")
    refused(result, "48 images, and these are 15", "not the same dataset")


def test_a_run_goes_on_with_the_images_that_it_began_with(finished, images, tmp_path):
    held_out = {"data__val": images / "val"}
    assert train(tmp_path, images, train__max_steps=7).returncode == 0
    renamed = shutil.copytree(images / "train", tmp_path / "renamed")
    (renamed / "class0" / "00.jpg").rename(renamed / "class0" / "other.jpg")
    result = train_on_ranks(tmp_path, None, 2, data__train=renamed, **held_out)  # which end together
    assert result.returncode != 0 and result.stderr.count("error: ") == 1
    assert "holds a run on images of other names: they are not the same dataset" in result.stderr
    convert(class_tree(images / "train"), tmp_path / "moved.beton")
    result = train(tmp_path, None, data__train=tmp_path / "moved.beton", **held_out)
    assert result.returncode == 0 and "warning" not in result.stderr, result.stderr
    assert_identical(last_state(finished), last_state(tmp_path))


def test_a_checkpoint_of_an_older_version_is_named(finished, images, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = max((tmp_path / "run" / "checkpoints").glob("step_*.pt"))
    state = torch.load(path, weights_only=True)
    del state["pictures"]
    torch.save(state, path)
    refused(train(tmp_path, images), "older version, without pictures", "name=")


def test_a_truncated_checkpoint_is_named(images, tmp_path):
    assert train(tmp_path, images, train__max_steps=12, eval__every=0).returncode == 0
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*.pt"))
    newest.write_bytes(newest.read_bytes()[:5000])
    refused(train(tmp_path, images), newest.name, "damaged", "step_00000006.pt")


def test_bad_input_is_named(images, tmp_path):
    text = tmp_path / "text.beton"
    text.write_text("not a beton file, only text that is long enough to hold a header")
    (tmp_path / "unreadable" / "class").mkdir(parents=True)
    for i in range(8):
        (tmp_path / "unreadable" / "class" / f"{i}.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    refused(train(out, None, data__train=text), "text.beton", "not a .beton file")
    refused(train(out, None, data__train=tmp_path / "missing.beton"), "data.train", "missing.beton")
    refused(train(out, None, data__train=tmp_path / "unreadable"), "cannot be decoded", "unreadable")
    refused(train(out, tmp_path / "nowhere"), "data.root", "write_ffcv.py")
    refused(train(out, images, optim__weight_decy=0), "optim.weight_decy", "optim.weight_decay")
    refused(train(out, images, train__batch_size=100), "48 images")
    refused(train(out, images, train__precision="fp16"), "train.precision")


def test_a_truncated_beton_is_named(images, tmp_path):
    convert(class_tree(images / "train"), tmp_path / "x.beton")
    (tmp_path / "x.beton").write_bytes((tmp_path / "x.beton").read_bytes()[:-100])
    refused(train(tmp_path / "out", None, data__train=tmp_path / "x.beton"), "x.beton", "truncated")


def test_a_batch_that_the_ranks_cannot_share_is_named(images, tmp_path):
    result = train_on_ranks(tmp_path, images, 2, train__batch_size=9)
    assert result.returncode != 0
    assert "error: a batch of 9 images cannot be shared evenly by 2 ranks" in result.stderr


def test_print_config_and_help_answer_without_torch():
    for option, expected in (("--print-config", "crops:"), ("--help", "optim.lr=")):
        code = (
            "import sys; from fastintl.train import main\n"
            f"try: main(['--rcfg', 'rcfgs/ep100.yaml', '{option}'])\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules"
        )
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout


def test_a_run_that_resumes_on_changed_images_says_so(images, tmp_path):
    data = shutil.copytree(images, tmp_path / "images")
    says = "goes on with images that are stored in other bytes than those it was trained on until now"

    def go_on(steps, data=data):
        result = train(tmp_path, data, train__max_steps=steps)
        assert result.returncode == 0 and saved_step(tmp_path) == steps, result.stderr
        return result.stderr

    assert says not in go_on(2)
    first = last_state(tmp_path)["pictures"]["content"]
    convert(class_tree(data / "train"), tmp_path / "files" / "imagenet_train.beton")
    convert(class_tree(data / "val"), tmp_path / "files" / "imagenet_val.beton")
    assert says not in go_on(3, tmp_path / "files")  # which keeps the images' bytes
    one, other = data / "train" / "class0" / "03.jpg", data / "train" / "class0" / "06.jpg"
    pictures = one.read_bytes(), other.read_bytes()
    one.write_bytes(pictures[1]), other.write_bytes(pictures[0])
    assert says in go_on(4) and says not in go_on(5)
    starts = [json.loads(line)["content"] for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert starts[0] == starts[1] == first and starts[2] == starts[3] != first
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*.pt"))
    state = torch.load(newest, weights_only=True)
    del state["pictures"]["content"]  # as older versions left it
    torch.save(state, newest)
    assert says not in go_on(6)


def test_the_evaluations_within_a_run_say_how_far_they_are(tmp_path, images):
    from fastintl import config, distributed
    from fastintl.evaluate.online import OnlineEvaluation
    from fastintl.network.model import build_backbone
    from fastintl.runs.folder import RunFolder

    words = [f"data.root={images}", "data.source=folder", "eval.resize=24", "eval.size=24", "eval.batch_size=16"]
    with distributed.start("cpu") as world:
        evaluation = OnlineEvaluation(config.load(None, words), world, RunFolder(tmp_path))
        told = []
        evaluation.tell = told.append
        evaluation.knn_top1(build_backbone("resnet8", "small"), "untrained network")
        evaluation.close()
    assert told == [f"untrained network: {share}% of the features" for share in (25, 50, 75, 100)]  # 48 and 15 images


def test_baselines_come_after_the_first_step_and_are_of_the_network_before_it(tmp_path, images, monkeypatch):
    from fastintl import config, distributed
    from fastintl.evaluate.online import OnlineEvaluation
    from fastintl.training.pretraining import pretrain
    from fastintl.training.step import TrainingStep

    words = [word for word in command(tmp_path, images, train__max_steps=2, eval__baselines="true") if "=" in word]
    made, seen, folder = config.load(None, words), {}, tmp_path / "run"

    def note(evaluation, network, title):
        seen[title] = {key: value.clone() for key, value in network.state_dict().items()}
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1] and "first_step_seconds" in rows[0]
        time.sleep(1)
        return 0.5

    monkeypatch.setattr(OnlineEvaluation, "knn_top1", note)
    pretrain(made)
    with distributed.start("cpu") as world:
        fresh = TrainingStep(made, world, 6).model.encoder.backbone.state_dict()
    assert list(seen) == ["raw pixels", "untrained network"]
    assert fresh.keys() == seen["untrained network"].keys()
    assert all(torch.equal(value, seen["untrained network"][key]) for key, value in fresh.items())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["knn_top1"]["untrained"] == 0.5 and summary["train_seconds"] < 1.5  # without the two seconds
