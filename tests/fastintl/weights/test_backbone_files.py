"""Files in the formats of many projects, made here in their key layouts, load to identical features or say why not."""

import argparse
import hashlib
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

import fastintl
from fastintl.network.model import build_backbone
from fastintl.weights.export import detectron2_name, export
from fastintl.weights.pickled import load_values
from loaders import CenterCrop, make_loader
from loaders.errors import UserError
from tests.helpers.documents import ROOT
from tools import export as tool


@pytest.fixture(scope="module")
def network():
    """torchvision's ResNet-18 with statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18()
    net(torch.randn(8, 3, 64, 64))
    return net.eval()


@pytest.fixture(scope="module")
def views():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(network, views):
    """Features of torchvision's own network, its classifier taken off."""
    with torch.no_grad():
        return torch.nn.Sequential(*list(network.children())[:-1])(views).flatten(1)


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def bare(network):
    return {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}


def doubled(state):
    return {key: value * 2 for key, value in state.items()}


def numbered(state):
    """The names of ``nn.Sequential(*list(resnet.children())[:-1])``."""
    numbers = {name: str(i) for i, (name, _) in enumerate(without_values().named_children())}
    parts = (key.partition(".") for key in state)
    return {f"{numbers[child]}.{rest}": value for (child, _, rest), value in zip(parts, state.values(), strict=True)}


def without_values():
    """torchvision's ResNet-18 for its names alone."""
    with torch.device("meta"):
        return torchvision.models.resnet18()


@pytest.fixture(scope="module")
def contents(network):
    """What the files of every project hold, by layout."""
    return layouts(network)


def layouts(network):
    whole, backbone, head = network.state_dict(), bare(network), torch.ones(4, 4)
    old = {key: value for key, value in backbone.items() if not key.endswith("num_batches_tracked")}
    return {
        "torchvision": whole,
        "torchvision from before 0.4.1": old,
        "ImageNet example": {"arch": "resnet18", "epoch": 9, "state_dict": under("module.", whole)},
        "INTL": {
            "epoch": 100,
            "arch": "resnet18",
            "state_dict": {
                **under("module.backbone.", backbone),
                **under("module.momentum_backbone.", doubled(backbone)),
                "module.projection.0.weight": head,
                "module.momentum_projection.0.weight": head,
            },
            "optimizer": {"state": {0: {"momentum_buffer": head}}, "param_groups": [{"lr": 0.1}]},
        },
        "CW-RGP, ImageNet": {"state_dict": {**under("module.model.", backbone), "module.head.0.weight": head}},
        "CW-RGP, small data": {**under("model.module.", backbone), "head.0.weight": head},
        "Barlow Twins, checkpoint": {
            "epoch": 3,
            "model": {
                **under("module.backbone.", backbone),
                "module.projector.0.weight": head,
                "module.bn.running_mean": head[0],
            },
            "optimizer": {},
        },
        "Barlow Twins, resnet50.pth": backbone,
        "MoCo v1": {
            "arch": "resnet18",
            "state_dict": {
                **under("module.encoder_q.", whole),
                **under("module.encoder_k.", doubled(whole)),
                "module.queue": head,
                "module.queue_ptr": torch.zeros(1, dtype=torch.long),
            },
        },
        "MoCo v2": {
            "state_dict": {
                **under("module.encoder_q.", {**backbone, "fc.0.weight": head, "fc.2.bias": head[0]}),
                **under("module.encoder_k.", {**doubled(backbone), "fc.0.weight": head}),
                "module.queue": head,
            }
        },
        "SwAV": {
            "state_dict": {
                **under("module.", backbone),
                "module.projection_head.0.weight": head,
                "module.prototypes.weight": head,
            }
        },
        "DINO": {
            "student": {**under("module.backbone.", backbone), "module.head.mlp.0.weight": head},
            "teacher": {**under("backbone.", doubled(backbone)), "head.last_layer.weight_g": head},
            "epoch": 3,
            "args": argparse.Namespace(arch="resnet18"),
        },
        "SimSiam": {
            "arch": "resnet18",
            "state_dict": under(
                "module.", {**under("encoder.", {**backbone, "fc.0.weight": head}), "predictor.0.weight": head}
            ),
        },
        "MoCo v3": {
            "state_dict": {
                **under("module.base_encoder.", {**backbone, "fc.0.weight": head}),
                **under("module.momentum_encoder.", {**doubled(backbone), "fc.0.weight": head}),
                "module.predictor.0.weight": head,
            }
        },
        "VICReg": {"model": {**under("module.backbone.", backbone), "module.projector.0.weight": head}},
        "BYOL": {
            **under("net.", whole),
            **under("online_encoder.net.", whole),
            **under("target_encoder.net.", doubled(whole)),
            "online_encoder.projector.0.weight": head,
            "target_encoder.projector.0.weight": head,
            "online_predictor.0.weight": head,
        },
        "VISSL": {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", backbone), "heads": {"0.clf": head}}}
            },
            "iteration": np.int64(7),
        },
        "solo-learn": {
            "state_dict": {
                **under("backbone.", backbone),
                **under("momentum_backbone.", doubled(backbone)),
                **{f"{part}.0.weight": head for part in ("projector", "momentum_projector", "predictor")},
                "classifier.weight": head,
            }
        },
        "lightly": {
            "state_dict": {
                **under("backbone.", numbered(backbone)),
                **under("backbone_momentum.", numbered(doubled(backbone))),
                "projection_head.layers.0.weight": head,
            }
        },
        "lightly's DINO": {
            "state_dict": {
                **under("student_backbone.", numbered(backbone)),
                **under("teacher_backbone.", numbered(doubled(backbone))),
                "student_head.layers.0.weight": head,
                "criterion.center": head,
            }
        },
        "MMSelfSup, BYOL": {
            "state_dict": {
                **under("backbone.", backbone),
                **under("target_net.module.0.", doubled(backbone)),
                "target_net.module.1.fc0.weight": head,
                "target_net.steps": torch.zeros(1),
                "neck.fc0.weight": head,
                "head.predictor.fc0.weight": head,
            },
            "message_hub": {"learning_rate": np.float64(0.3)},
        },
        "MMSelfSup, MoCo": {
            "state_dict": {
                **under("backbone.", backbone),
                **under("encoder_q.0.", backbone),
                **under("encoder_k.0.", doubled(backbone)),
                "neck.mlp.0.weight": head,
                "encoder_k.1.mlp.0.weight": head,
                "queue_ptr": torch.zeros(1),
            }
        },
        "compiled": {"model": under("_orig_mod.", backbone), "args": argparse.Namespace(lr=0.1)},
    }


@pytest.mark.parametrize("name", list(layouts(without_values())))
def test_every_layout_loads_to_identical_features(contents, views, expected, tmp_path, name):
    path = tmp_path / "file.pth.tar"
    # MoCo's files are from before PyTorch's zip format.
    torch.save(contents[name], path, _use_new_zipfile_serialization="MoCo" not in name)
    loaded = fastintl.load_backbone(path, "resnet18")
    assert not loaded.training and loaded.feature_dim == 512
    with torch.no_grad():
        assert torch.equal(loaded(views), expected)


WITH_TARGET = ["INTL", "MoCo v1", "MoCo v2", "MoCo v3", "DINO", "BYOL", "solo-learn", "lightly", "lightly's DINO"]


@pytest.mark.parametrize("name", [*WITH_TARGET, "MMSelfSup, BYOL", "MMSelfSup, MoCo"])
def test_the_ema_copy_on_request(network, contents, tmp_path, name):
    path = tmp_path / "file.pth.tar"
    torch.save(contents[name], path)
    loaded = fastintl.load_backbone(path, "resnet18", target=True)
    assert torch.equal(loaded.conv1.weight, network.conv1.weight * 2)


def test_safetensors_and_urls(network, views, expected, tmp_path, monkeypatch):
    save_file(bare(network), tmp_path / "file.safetensors")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with torch.no_grad():
        for place in (tmp_path / "file.safetensors", (tmp_path / "file.safetensors").as_uri()):
            assert torch.equal(fastintl.load_backbone(place, "resnet18")(views), expected)
    (tmp_path / "file.safetensors").rename(tmp_path / "net-01234567.safetensors")
    with pytest.raises(UserError, match="invalid hash"):
        fastintl.load_backbone((tmp_path / "net-01234567.safetensors").as_uri(), "resnet18")


class PaddedCifar(torchvision.models.ResNet):
    """INTL's CIFAR network since 2023-06-02: a border of zeros, then a ResNet-18 of stride 1 without max-pool."""

    def __init__(self):
        super().__init__(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2])
        self.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(torch.nn.functional.pad(x, (1, 1, 1, 1)))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean((2, 3))


def test_the_authors_cifar_files_are_asked_which_of_their_two_networks_they_hold(tmp_path):
    torch.manual_seed(0)
    theirs, images = PaddedCifar(), torch.randn(4, 3, 32, 32)
    theirs(torch.randn(16, 3, 32, 32))  # statistics
    state = {**under("module.backbone.", bare(theirs)), "module.projection.0.weight": torch.ones(4, 4)}
    torch.save({"epoch": 1000, "arch": "resnet18", "state_dict": state, "optimizer": {}}, tmp_path / "ckpt.pth.tar")
    with pytest.raises(UserError, match="cifar_padded is INTL's CIFAR network since 2023-06-02, cifar INTL's before"):
        fastintl.load_backbone(tmp_path / "ckpt.pth.tar")
    with torch.no_grad():
        expected = theirs.eval()(images)
        padded, plain = (
            fastintl.load_backbone(tmp_path / "ckpt.pth.tar", stem=stem)(images) for stem in ("cifar_padded", "cifar")
        )
    torch.testing.assert_close(padded, expected, rtol=1e-5, atol=1e-5)
    assert (plain - expected).norm() > 0.01 * expected.norm()
    export(fastintl.load_backbone(tmp_path / "ckpt.pth.tar", stem="cifar_padded"), tmp_path / "ours.safetensors")
    assert fastintl.load_backbone(tmp_path / "ours.safetensors").stem == "cifar_padded"


def test_our_own_runs_say_what_they_hold(finished, tmp_path):
    run = finished / "run"
    state = torch.load(max((run / "checkpoints").glob("step_*.pt")), weights_only=True)["model"]
    weight, ema = state["encoder.backbone.conv1.weight"], state["target.backbone.conv1.weight"]
    for place in (run, run / "backbone.pt", max((run / "checkpoints").glob("step_*.pt"))):
        loaded = fastintl.load_backbone(place)
        assert (loaded.arch, loaded.stem) == ("resnet8", "small") and torch.equal(loaded.conv1.weight, weight)
    assert torch.equal(fastintl.load_backbone(run, target=True).conv1.weight, ema)
    with pytest.raises(UserError, match="holds a network of arch resnet8, not resnet50"):
        fastintl.load_backbone(run, "resnet50")
    shutil.copy(run / "backbone.pt", tmp_path)
    with pytest.raises(UserError, match="but of a resnet8 with the stem cifar, cifar_padded or small, which"):
        fastintl.load_backbone(tmp_path / "backbone.pt")
    assert fastintl.load_backbone(tmp_path / "backbone.pt", "resnet8", stem="small").stem == "small"


@pytest.mark.parametrize(
    "change, options, says",
    [
        (lambda s: s, {"arch": "resnet34"}, "but of a resnet18 with the stem imagenet .*missing: layer1.2.conv1"),
        (lambda s: s, {"stem": "cifar"}, "1 of another shape: conv1.weight .64, 3, 7, 7. for .64, 3, 3, 3."),
        (lambda s: {**s, "surprise": torch.ones(1)}, {}, "1 left over: surprise"),
        (lambda s: {**s, "surprise": torch.ones(1)}, {}, "not those of a resnet18 with the stem imagenet .1 left over"),
        (lambda s: {**s, "conv1.weight": s["conv1.weight"].to_sparse()}, {}, "1 no plain numbers: conv1.weight"),
        (lambda s: {"epoch": 3, "model": {1: torch.ones(1)}}, {}, "holds no tensors by name"),
        (lambda s: {}, {}, "holds no tensors by name"),
        (lambda s: {k: v for k, v in s.items() if "layer4" not in k}, {}, "25 missing: layer4.* and 20 more"),
        (lambda s: under("net.", s), {}, "holds no ResNet under the names of a known project.*net.conv1.weight"),
        (lambda s: {"module.backbone.conv1.weight": s["conv1.weight"]}, {"target": True}, "holds no EMA copy"),
        (lambda s: [1, 2], {}, "holds a list"),
        (lambda s: s, {"arch": "resnet81"}, "did you mean 'resnet8"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_keys(network, tmp_path, change, options, says):
    torch.save(change(bare(network)), tmp_path / "file.pt")
    with pytest.raises(UserError, match=says) as caught:
        fastintl.load_backbone(tmp_path / "file.pt", **{"arch": "resnet18", **options})
    assert "file.pt" in str(caught.value) or "arch" in options
    assert len(str(caught.value)) < 1000


class Hostile:
    def __reduce__(self):
        return os.mkdir, (os.environ["HOSTILE_FOLDER"],)


@pytest.mark.parametrize("write", ["torch", "old torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(network, tmp_path, monkeypatch, write):
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path / "ran"))
    content, path = {"state_dict": bare(network), "args": Hostile()}, tmp_path / "file.pt"
    if write == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(UserError, match="file.pt is not opened") as caught:
        fastintl.load_backbone(path, "resnet18")
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_a_backbone_brings_the_transform_of_its_run(finished, images):
    """What it makes of a file is the run's evaluation view, but for PIL's rounding to whole numbers."""
    path = sorted((images / "val").rglob("*.jpg"))[0]
    transform = fastintl.load_backbone(finished / "run").transform
    loader = make_loader(images / "val", CenterCrop(24, 24), 1, threads=1)
    expected = next(iter(loader)).views[0][0]
    loader.close()
    found = transform(Image.open(path).convert("RGB"))
    assert found.shape == (3, 24, 24) and (found - expected).abs().max() < 2.5 / 255 / 0.224


def test_torchvisions_weights_by_name(network, tmp_path, monkeypatch):
    """From the folder that a download leaves them in; a name that is none is one sentence."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / f"{digest}_{url.rpartition('/')[2]}")
    for arch in (None, "resnet18"):
        loaded = fastintl.load_backbone("torchvision:resnet18", arch)
        assert loaded.arch == (arch or "torchvision:resnet18")
        assert torch.equal(loaded.conv1.weight, network.conv1.weight)
    with pytest.raises(UserError, match="torchvision:resnet18.V9: there are IMAGENET1K_V1"):
        fastintl.load_backbone("torchvision:resnet18.V9")


def test_timms_weights_by_name(network, tmp_path, monkeypatch):
    """From the folder that the hub keeps them in, and one sentence where they are not there and cannot be fetched."""
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    theirs = timm.create_model("test_vit")
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = fastintl.load_backbone("timm:test_vit.r160_in1k")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = theirs.eval().forward_head(theirs.forward_features(images), pre_logits=True)
        torch.testing.assert_close(loaded(images), expected)
    assert loaded.transform.transforms[1].size == (160, 160)
    with pytest.raises(UserError, match="the weights of timm:test_convnext.r160_in1k cannot be fetched"):
        fastintl.load_backbone("timm:test_convnext.r160_in1k")


@pytest.mark.parametrize("old", [False, True])
def test_plain_numbers_of_numpy_do_no_harm_and_arrays_of_objects_are_refused(network, tmp_path, old):
    numbers = {"best": np.float64(0.75), "epoch": np.int32(3), "half": np.float16(0.5), "done": np.bool_(True)}
    torch.save({"state_dict": bare(network), **numbers}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    assert torch.equal(fastintl.load_backbone(tmp_path / "a.pt", "resnet18").conv1.weight, network.conv1.weight)
    read = load_values(tmp_path / "a.pt")
    assert [read[name] for name in numbers] == [0.75, 3, 0.5, True] and type(read["best"]) is float
    torch.save({"state_dict": bare(network), "x": np.array([Hostile], object)}, tmp_path / "b.pt")
    with pytest.raises(UserError, match="b.pt is not opened"):
        fastintl.load_backbone(tmp_path / "b.pt", "resnet18")


@pytest.mark.parametrize("name", ["cut.pt", "text.pt", "text.safetensors", "none.pt", "."])
def test_what_cannot_be_read_is_one_sentence(network, tmp_path, name):
    torch.save(bare(network), tmp_path / "cut.pt")
    os.truncate(tmp_path / "cut.pt", 10_000)
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError) as caught:
        fastintl.load_backbone(tmp_path / name)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_exported_files_load_into_torchvision_and_back(contents, views, expected, tmp_path, suffix):
    torch.save(contents["INTL"], tmp_path / "file.pth.tar")
    tool.main([str(tmp_path / "file.pth.tar"), "--out", str(tmp_path / "out" / f"file{suffix}")])
    loaded = fastintl.load_backbone(tmp_path / "out" / f"file{suffix}", "resnet18")
    with torch.no_grad():
        assert torch.equal(loaded(views), expected)
    if suffix == ".pt":
        theirs = torchvision.models.resnet18()
        state = torch.load(tmp_path / "out" / "file.pt", weights_only=True)
        missing, left = theirs.load_state_dict(state, strict=False)
        assert missing == ["fc.weight", "fc.bias"] and not left


def test_safetensors_remember_the_network(tmp_path):
    backbone = build_backbone("resnet8", "small")
    export(backbone, tmp_path / "file.safetensors")
    loaded = fastintl.load_backbone(tmp_path / "file.safetensors")
    assert (loaded.arch, loaded.stem) == ("resnet8", "small")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_timm_loads_what_is_exported(network, views, expected, tmp_path):
    timm = pytest.importorskip("timm")
    export(fastintl_of(network), tmp_path / "file.safetensors")
    theirs = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "file.safetensors")).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(views), expected)


def fastintl_of(network):
    backbone = build_backbone("resnet18")
    backbone.load_state_dict(bare(network))
    return backbone


def test_detectron2_names_are_its_converters(network, tmp_path):
    export(fastintl_of(network), tmp_path / "file.pkl")
    content = pickle.loads((tmp_path / "file.pkl").read_bytes())
    assert content["matching_heuristics"] is True and content["__author__"] == "fastintl"
    assert content["model"].keys() == {converted(key) for key in bare(network)}
    weight = content["model"]["res3.0.shortcut.weight"]
    assert (weight == network.layer2[0].downsample[0].weight.detach().numpy()).all()
    assert detectron2_name("layer4.2.bn3.running_var") == "res5.2.conv3.norm.running_var"
    assert detectron2_name("bn1.weight") == "stem.conv1.norm.weight"


def converted(key):
    """The rules of detectron2's tools/convert-torchvision-to-d2.py, one replacement after the other."""
    key = key if "layer" in key else "stem." + key
    for old, new in [
        *((f"layer{t}", f"res{t + 1}") for t in (1, 2, 3, 4)),
        *((f"bn{t}", f"conv{t}.norm") for t in (1, 2, 3)),
        ("downsample.0", "shortcut"),
        ("downsample.1", "shortcut.norm"),
    ]:
        key = key.replace(old, new)
    return key


def test_what_cannot_be_exported_is_one_sentence(tmp_path, capsys):
    export(build_backbone("resnet8"), tmp_path / "file.safetensors")
    for name, says in (("x.onnx", "its suffix must be"), ("x.pkl", "detectron2 has no resnet8")):
        with pytest.raises(SystemExit):
            tool.main([str(tmp_path / "file.safetensors"), "--out", str(tmp_path / name)])
        assert says in capsys.readouterr().err and not (tmp_path / name).exists()


def test_torch_hub(network, views, expected, tmp_path):
    torch.save(bare(network), tmp_path / "file.pt")
    loaded = torch.hub.load(str(ROOT), "resnet18", source="local", weights=str(tmp_path / "file.pt"))
    with torch.no_grad():
        assert torch.equal(loaded(views), expected)
    assert torch.hub.load(str(ROOT), "resnet50", source="local").feature_dim == 2048


@pytest.mark.parametrize("theirs_first", [False, True])
def test_torch_hub_beside_a_package_loaders_of_ones_own(theirs_first, tmp_path):
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders/__init__.py").write_text("")
    load = f"import torch\nprint(torch.hub.load({str(ROOT)!r}, 'resnet18', source='local').feature_dim)\n"
    (tmp_path / "theirs.py").write_text("import loaders\n" * theirs_first + load)
    ended = subprocess.run([sys.executable, "theirs.py"], cwd=tmp_path, capture_output=True, text=True)
    if theirs_first:
        said = f"ImportError: fastintl needs the package loaders that comes with it, and Python has taken {tmp_path}"
        assert ended.returncode and ended.stderr.splitlines()[-1].startswith(said)
    else:
        assert ended.stdout == "512\n", ended.stderr


def test_a_file_that_changed_on_the_way_is_not_read_as_weights(network, tmp_path):
    path = tmp_path / "file.pt"
    torch.save(bare(network), path)
    data = bytearray(path.read_bytes())
    where = bytes(data).index(network.layer3[0].conv1.weight.detach().numpy().tobytes()[:64])
    data[where + 2] ^= 1  # torch.load does not mind
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)
    with pytest.raises(UserError, match="file.pt cannot be read as weights .its part .* has changed"):
        fastintl.load_backbone(path, "resnet18")


@pytest.mark.parametrize("cut", ["\neval:", "\nmodel:", "  size: 24"])
def test_a_configuration_that_was_cut_off_is_not_filled_up_with_defaults(finished, tmp_path, cut):
    shutil.copy(finished / "run" / "backbone.pt", tmp_path)
    text = (finished / "run" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text)
    assert fastintl.load_backbone(tmp_path / "backbone.pt").arch == "resnet8"
    (tmp_path / "config.yaml").write_text(text[: text.index(cut) + len(cut)])
    with pytest.raises(UserError, match="config.yaml is cut off: copy it again"):
        fastintl.load_backbone(tmp_path / "backbone.pt")
