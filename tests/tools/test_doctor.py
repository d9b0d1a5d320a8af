"""What the doctor says of this machine and of small datasets, with and without the optional decoders."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from loaders.beton.file import BetonFile
from loaders.planning import installed
from loaders.planning.report import size
from tools import doctor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_run(monkeypatch):
    monkeypatch.setattr("loaders.planning.rates._SECONDS", 0.0)


def examine(tmp_path, capsys, *arguments) -> tuple[dict, str]:
    """The report and the screen."""
    doctor.main([*map(str, arguments), "--json", str(tmp_path / "deep" / "doctor.json")])
    screen = capsys.readouterr().out
    lines = screen.splitlines()
    commands = [i for i, line in enumerate(lines) if line.startswith("  to have ")]
    assert len(lines) <= 40 and all(len(line) <= 100 for line in lines), screen
    assert all(lines[i + 1].startswith("    ") for i in commands)
    return json.loads((tmp_path / "deep" / "doctor.json").read_text()), screen


def take_away(monkeypatch, package: str) -> None:
    """As if the package were not installed: neither its modules nor its metadata are found."""
    modules, ours, names = {
        "ffcv": ("ffcv", "loaders.sources.beton", {"ffcv"}),
        "dali": ("nvidia.dali", "loaders.sources.dali", set(installed._DALI_BUILDS.values())),
    }[package]
    for name in [name for name in sys.modules if name == modules or name.startswith(f"{modules}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, modules, None)
    monkeypatch.delitem(sys.modules, ours, raising=False)
    version = installed.package_version
    monkeypatch.setattr(installed, "package_version", lambda name: None if name in names else version(name))


def test_the_numbers_of_a_beton_agree_with_each_other(image_beton, tmp_path, capsys):
    report, screen = examine(tmp_path, capsys, "--data", image_beton, "--ranks", 2, "--batch-size", 24)
    file, plan = BetonFile(image_beton), report["plan"]
    facts, cores = plan["facts"], report["machine"]["cores"]
    areas = file.heights.astype(int) * file.widths * 3
    assert (facts["images"], facts["classes"], facts["jpegs"], facts["sampled"]) == (60, 3, 1.0, 0)
    assert facts["stored"] == image_beton.stat().st_size and facts["decoded"] == areas.sum()
    assert facts["largest_size"] == [90, 64]
    assert (plan["images"], plan["threads"]) == (12, max(1, cores // 2))
    assert plan["fits_memory"] and plan["fits_page_cache"] and plan["undecodable"] == 0
    runs = [source["name"] for source in report["sources"] if source["usable"]]
    assert [source["source"] for source in plan["sources"]] == runs
    for source in plan["sources"]:
        memory, decode = source["memory"], source["decode_per_core"]
        assert source["memory_all"] == 2 * sum(memory.values())
        assert memory["views"] == 4 * 12 * sum(s * s for s in (224, 224, 192, 160, 128, 96)) * 3 * 4
        per_image = 1 / plan["crops_per_core"] + (1 / decode if decode else 0)
        assert source["feeds_cpu_crops"] == pytest.approx(cores / per_image)
        assert source["source"] in screen
        if source["source"] == "ffcv":
            batch = 12 * areas.mean() + max(4 * 12**0.5 * areas.std(), areas.max())
            assert memory["pixels"] == 4 * int(min(batch, 12 * areas.max()))
            assert source["feeds_gpu_crops"] == pytest.approx(cores * decode)
    demand = report["demand"]
    assert demand["cost_in_images_of_224_px"] == pytest.approx(3.09, abs=0.01)
    best = max(source["feeds_cpu_crops"] for source in plan["sources"] if source["decode_per_core"])
    fed_by_core = demand["images_per_second_of_a_gpu"] / demand["cores_a_gpu_with_cpu_crops"]
    assert fed_by_core == pytest.approx(best / cores)


def test_a_folder_is_sampled_and_damage_is_counted(image_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("loaders.planning.data_facts._SAMPLE", 30)
    report, screen = examine(tmp_path, capsys, "--data", image_folder, "--batch-size", 8)
    facts = report["plan"]["facts"]
    sizes = [path.stat().st_size for path in image_folder.rglob("*.jpg")]
    assert (facts["images"], facts["classes"], facts["sampled"]) == (60, 3, 30)
    assert facts["stored"] == pytest.approx(sum(sizes), rel=0.2) and "estimated from 30 of them" in screen
    assert "ffcv" not in [source["source"] for source in report["plan"]["sources"]]

    damaged = tmp_path / "damaged"
    for i, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:20]):
        target = damaged / path.relative_to(image_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"<html>" if i == 3 else path.read_bytes())
    report, screen = examine(tmp_path, capsys, "--data", damaged, "--batch-size", 4)
    assert report["plan"]["facts"]["unreadable"] == report["plan"]["undecodable"] == 1
    assert "1 of the images looked at" in " ".join(screen.split())


@pytest.mark.parametrize("missing", [["ffcv"], ["dali"], ["ffcv", "dali"]])
def test_what_is_missing_is_named_with_its_cure(missing, image_beton, tmp_path, capsys, monkeypatch):
    for package in missing:
        take_away(monkeypatch, package)
    report, screen = examine(tmp_path, capsys, "--data", image_beton, "--batch-size", 12)
    for status in report["sources"]:
        if status["name"] in missing:
            assert not status["usable"] and "is not installed" in status["about"]
            assert "make setup" in status["cure"] or "pip install" in status["cure"]
            assert f"to have {status['name']}:" in screen
    assert not set(missing) & {source["source"] for source in report["plan"]["sources"]}
    assert {"memory", "folder"} <= {source["source"] for source in report["plan"]["sources"]}
    if "ffcv" in missing:  # then Python threads decode for a GPU
        demand, sources = report["demand"], {source["source"]: source for source in report["plan"]["sources"]}
        assert demand["cores_a_gpu_with_gpu_crops"] == pytest.approx(
            demand["images_per_second_of_a_gpu"] / sources["folder"]["decode_per_core"]
        )


def test_what_the_build_of_ffcv_lacks(monkeypatch, tmp_path, capsys):
    take_away(monkeypatch, "ffcv")
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler, no pkg-config
    lacks = installed.build_lacks()
    assert lacks[:4] == ["build-essential", "pkg-config", "libturbojpeg0-dev", "libopencv-dev"]
    setup = (ROOT / "tools" / "setup.sh").read_text()
    assert all(package in setup for package in lacks[:4])
    report, screen = examine(tmp_path, capsys)
    assert "its build lacks build-essential" in report["sources"][0]["about"]
    pasted = screen.split("to have ffcv:\n")[1].split("machine")[0].replace("\\\n", " ")
    assert " ".join(pasted.split()).startswith(report["sources"][0]["cure"])


@pytest.mark.parametrize(
    "cuda, build", [("11.8", "cuda110"), ("12.8", "cuda120"), ("13.0", "cuda130"), (None, "cuda130")]
)
def test_the_build_of_dali_follows_pytorch(cuda, build):
    assert installed.dali_build(cuda) == f"nvidia-dali-{build}"


def test_without_data_nothing_is_measured(tmp_path, capsys):
    report, screen = examine(tmp_path, capsys)
    assert report["plan"] is None and report["demand"] is None
    assert [status["name"] for status in report["sources"]] == ["ffcv", "dali", "memory", "folder"]
    assert "none given" in screen
    if not torch.cuda.is_available():
        assert "no GPU: training runs on the CPU in float32" in screen and report["machine"]["crops"] == "cpu"


@pytest.mark.parametrize(
    "capability, precision, crops", [((9, 0), "bfloat16", "triton"), ((7, 0), "float16", "batched")]
)
def test_a_gpu_is_described(capability, precision, crops, image_beton, tmp_path, capsys, monkeypatch):
    properties = SimpleNamespace(name="A GPU", major=capability[0], minor=capability[1], total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 << 30, 80 << 30))
    report, screen = examine(tmp_path, capsys, "--data", image_beton, "--batch-size", 24)
    assert [gpu["memory"] for gpu in report["machine"]["gpus"]] == [80 << 30] * 2
    assert (report["machine"]["precision"], report["machine"]["crops"]) == (precision, crops)
    assert screen.count("A GPU, compute capability") == 2
    views = 12 * sum(s * s for s in (224, 224, 192, 160, 128, 96)) * 3 * 2  # bfloat16 or float16
    for source in report["plan"]["sources"]:
        memory = source["memory"]
        assert memory["views"] == 0 and memory["on_gpu"] > 4 * views and "its GPU" in screen
        assert memory["pixels"] + memory["work"] > 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data", "nowhere.beton"], "nowhere.beton does not exist"),
        (["--data", "BETON", "--ranks", "7"], "256 images cannot be shared evenly by 7 ranks"),
        (["--data", "BETON", "--ranks", "0"], "--ranks: 0 is out of range"),
        (["--rcfg", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--json", "/"], "/ cannot be written"),
    ],
)
def test_mistakes_get_one_sentence(arguments, words, image_beton, capsys):
    with pytest.raises(SystemExit) as exit_:
        doctor.main([str(image_beton) if word == "BETON" else word for word in arguments])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words in error


def test_sizes_are_written_for_people():
    assert [size(count) for count in (0, 999, 1500, 44.1e6, 8e9, 2.5e12)] == [
        "0 B", "999 B", "1.5 kB", "44.1 MB", "8 GB", "2.5 TB",
    ]  # fmt: skip


def test_batches_of_pixels_keep_within_the_bound(image_beton):
    from loaders.planning.data_facts import data_facts
    from loaders.sources import open_images

    images = open_images(image_beton)
    areas, facts = images.heights * images.widths * 3, data_facts(images)
    rng = np.random.default_rng(0)
    for count in (1, 8, 30):
        sums = [areas[rng.permutation(60)[:count]].sum() for _ in range(200)]
        assert max(sums) <= facts.batch_pixels(count) <= count * areas.max()


def test_what_a_gpu_takes_of_crops_that_grow_is_the_mean_over_the_run_and_what_it_takes_at_first(image_beton, tmp_path):
    found = {}
    for name, recipe in {"constant": "ep100", "growing": "fast/ep100"}.items():
        out = tmp_path / f"{name}.json"
        doctor.main(["--data", str(image_beton), "--rcfg", recipe, "--json", str(out)])
        found[name] = json.loads(out.read_text())["demand"]
    constant, growing = found["constant"], found["growing"]

    def cost(*sides: int) -> float:  # the target's view costs a third
        return (sides[0] ** 2 / 3 + sum(side**2 for side in sides[1:])) / 224**2

    stages = [cost(160, 160, 128, 112, 80, 64), cost(192, 192, 160, 144, 112, 80), cost(224, 224, 192, 160, 128, 96)]
    assert constant["cost_in_images_of_224_px"] == pytest.approx(stages[2])
    assert constant["images_per_second_of_a_gpu_at_first"] == constant["images_per_second_of_a_gpu"]
    mean = 0.35 * stages[0] + 0.35 * stages[1] + 0.3 * stages[2]
    assert growing["cost_in_images_of_224_px"] == pytest.approx(mean)
    assert growing["images_per_second_of_a_gpu"] == pytest.approx(2470 / mean)
    assert growing["images_per_second_of_a_gpu_at_first"] == pytest.approx(2470 / stages[0])
