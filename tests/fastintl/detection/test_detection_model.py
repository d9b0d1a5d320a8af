"""The detector: whose weights it has, what its parts see, its schedule, and the way to detectron2."""

import math
import pickle
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import fastintl
from fastintl.config.options import build
from fastintl.detection.config import DetectionConfig, Model, Optim, Views, load
from fastintl.detection.model import build_detector
from fastintl.detection.training_step import DetectionStep, average_statistics, learning_rate
from fastintl.distributed import World
from fastintl.network.model import build_backbone
from fastintl.weights.export import export
from loaders import UserError

ALONE = World(0, 1, 0, torch.device("cpu"))
SMALL = Model(True, (16, 32), (100, 20), (100, 20), rois=16, roi_size=6)
VIEWS = Views(train_sizes=(64,), test_size=64)


@pytest.mark.parametrize(("arch", "stride"), [("resnet50", 16), ("resnet18", 16), ("resnet8", 8)])
def test_every_weight_of_the_backbone_file_is_in_the_detector(tmp_path, arch, stride):
    torch.manual_seed(1)
    source = {name: value.normal_() if value.is_floating_point() else value + 3
              for name, value in build_backbone(arch).state_dict().items()}  # fmt: skip
    torch.save(source, tmp_path / "backbone.pt")
    step = DetectionStep(fastintl.load_backbone(tmp_path / "backbone.pt", arch), 3, config(), ALONE)
    found = backbone_state(step.network)
    assert found.keys() == source.keys() and all(torch.equal(found[name], source[name]) for name in source)
    last = "layer3" if arch == "resnet8" else "layer4"
    head = {name for name in step.network.state_dict() if name.startswith("roi_heads.box_head.")}
    assert {name.split(".")[2] for name in head} == {last, "norm"}
    assert step.network.backbone.stride == stride and step.network.roi_heads.box_roi_pool.spatial_scale == 1 / stride
    assert all(parameter.requires_grad for parameter in step.network.parameters())


def backbone_state(detector: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the backbone in a detector, under torchvision's names."""
    found = {}
    for name, value in detector.state_dict().items():
        for prefix in ("backbone.", "roi_heads.box_head.layer"):
            if name.startswith(prefix):
                found[name.removeprefix(prefix.removesuffix("layer"))] = value
    return found


def config(**changes) -> DetectionConfig:
    flat = {"data.layout": "coco", "train.batch_size": 2, "train.device": "cpu", "model.masks": True}
    flat |= {f"model.{name}": value for name, value in vars(SMALL).items()}
    flat |= {f"views.{name}": value for name, value in vars(VIEWS).items()}
    return build(DetectionConfig, flat | {key.replace("__", "."): value for key, value in changes.items()})


def images(count: int = 2, objects: int = 2):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 6, 30, 40], [20, 10, 60, 50]])[:objects]
    masks = torch.zeros(objects, 64, 64, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {"boxes": boxes, "labels": torch.arange(1, objects + 1), "masks": masks}
    images = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return [(image, target) for image in images]


def fresh_step(**changes) -> DetectionStep:
    torch.manual_seed(0)
    return DetectionStep(build_backbone("resnet8", zero_init_residual=False), 3, config(**changes), ALONE)


def test_a_step_trains_every_parameter_with_objects_and_without():
    for objects in (2, 0):
        step = fresh_step()
        before = {name: value.clone() for name, value in step.network.named_parameters()}
        losses = step(images(objects=objects), 50)
        assert losses.isfinite().all() and len(losses) == 1 + len(step.loss_names) == 6
        torch.testing.assert_close(losses[0], losses[1:].sum())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in step.network.parameters())
        still = {name for name, p in step.network.named_parameters() if torch.equal(p, before[name])}
        # Without an object no box is corrected: the weights of that layer decay, its bias starts at zero.
        without = {"rpn.head.bbox_pred.bias", "roi_heads.box_predictor.bbox_pred.bias"}
        assert still == (without if objects == 0 else set())
        statistics = [m.running_mean.abs().max() for m in step.network.modules() if isinstance(m, _BatchNorm)]
        assert min(statistics) > 0


def test_masks_and_boxes_share_the_features_of_a_region():
    step = fresh_step()
    seen = []
    step.network.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    step.losses(images(), 0)
    assert seen == [(32, 128, 3, 3)]  # both images' regions, once
    step.network.eval()
    with torch.no_grad():
        found = step.network([image for image, _ in images()])
    for detections in found:
        assert detections["masks"].shape == (len(detections["boxes"]), 1, 64, 64)


def test_an_image_in_which_nothing_is_found():
    step = fresh_step()
    step.network.roi_heads.score_thresh = 1.1
    step.network.eval()
    with torch.no_grad():
        (found,) = step.network([images()[0][0]])
    assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 1, 64, 64)


def test_the_test_resizes_and_answers_in_the_images_own_pixels():
    detector = build_detector(build_backbone("resnet8"), 3, SMALL, replace(VIEWS, test_size=128)).eval()
    shapes = []
    detector.backbone.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    detector.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        (found,) = detector([torch.zeros(3, 40, 60, dtype=torch.uint8)])
    assert shapes == [(1, 3, 128, 192)] and found["masks"].shape[-2:] == (40, 60)
    assert (found["boxes"] >= 0).all() and found["boxes"][:, 2].max() <= 60 and found["boxes"][:, 3].max() <= 40
    normalised = detector.transform.normalize(torch.full((3, 2, 2), 255, dtype=torch.uint8))
    expected = (1 - torch.tensor(VIEWS.mean)) / torch.tensor(VIEWS.std)
    torch.testing.assert_close(normalised[:, 0, 0], expected)


def test_half_precision_leaves_boxes_in_full():
    """Autocast to bf16 rounds coordinates to 2 or 4 pixels if it reaches them."""
    step = fresh_step(train__precision="bf16")
    assert step.dtype == torch.bfloat16
    seen = {}
    heads = step.network.roi_heads
    heads.box_roi_pool.register_forward_pre_hook(lambda m, inputs: seen.update(feature=inputs[0], boxes=inputs[1]))
    heads.box_head[0].register_forward_hook(lambda m, inputs, output: seen.update(convolved=output))
    losses = step(images(), 0)
    assert losses.isfinite().all() and seen["convolved"].dtype == torch.bfloat16
    assert seen["feature"].dtype == seen["boxes"][0].dtype == torch.float32
    coordinates = torch.cat(seen["boxes"])
    assert not torch.equal(coordinates, coordinates.bfloat16().float())


def test_precise_statistics_are_the_average_over_the_batches():
    step = fresh_step()
    batches = [[(image.flip(-1) if i else image, target) for image, target in images()] for i in range(3)]
    norm, momentum = step.network.backbone.bn1, step.network.backbone.bn1.momentum
    inputs = []
    norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    average_statistics(step, iter(batches), 3, 0)
    expected = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == momentum and len(inputs) == 3


# Schedule


def test_the_recipes_are_mocos_protocol():
    voc, coco = (load(f"rcfgs/detection/{name}.yaml") for name in ("voc0712", "coco_2x"))
    assert (voc.optim.steps, voc.optim.drops, voc.optim.warmup_steps) == (24_000, (18_000, 22_000), 100)
    assert (coco.optim.steps, coco.optim.drops) == (180_000, (120_000, 160_000))
    assert voc.views.train_sizes == tuple(range(480, 801, 32)) and coco.views.train_sizes == tuple(range(640, 801, 32))
    assert voc.data.train == ("VOC2007/trainval", "VOC2012/trainval") and voc.data.test == "VOC2007/test"
    assert (coco.data.train, coco.data.test) == (("train2017",), "val2017")
    assert coco.model.masks and not voc.model.masks
    for recipe in (voc, coco):
        assert (recipe.optim.lr, recipe.train.batch_size, recipe.optim.weight_decay) == (0.02, 16, 1e-4)
        assert (recipe.views.test_size, recipe.views.max_size, recipe.eval.precise_bn) == (800, 1333, 200)
        assert recipe.model.anchor_sizes == (32, 64, 128, 256, 512) and recipe.model.rois == 512
        assert recipe.model.proposals_train == (12000, 2000) and recipe.model.proposals_test == (6000, 1000)
    with pytest.raises(UserError, match="model.masks"):
        load("rcfgs/detection/voc0712.yaml", ["model.masks=true"])
    with pytest.raises(UserError, match="data.classes"):
        load("rcfgs/detection/coco_2x.yaml", ["data.classes=[disc]"])


@pytest.mark.parametrize("name", ["a/b", "/a", "..", "."])
def test_a_run_is_named_as_a_plain_folder_is(name):
    with pytest.raises(UserError, match=f"name: {re.escape(name)} is not a plain folder name"):
        load("rcfgs/detection/voc0712.yaml", [f"name={name}"])


def test_the_rate_rises_and_falls_where_it_says():
    optim = Optim(lr=0.02, steps=100, drops=(60, 80), warmup_steps=10)
    rates = [learning_rate(step, optim) for step in range(100)]
    assert rates[0] == pytest.approx(0.02 / 1000) and rates[5] == pytest.approx(0.02 * (0.5 + 0.5 / 1000))
    assert rates[10:60] == [0.02] * 50
    assert rates[60] == rates[79] == pytest.approx(0.002) and rates[80] == rates[99] == pytest.approx(0.0002)


def test_batchnorm_does_not_decay_and_everything_learns():
    step = fresh_step()
    decaying, others = step.optimizer.param_groups
    assert decaying["weight_decay"] == 1e-4 and others["weight_decay"] == 0
    norms = [m for m in step.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(others["params"]) == 2 * len(norms) and {len(p.shape) for p in others["params"]} == {1}
    assert len(decaying["params"]) + len(others["params"]) == len(list(step.network.parameters()))
    bias = step.network.roi_heads.box_predictor.cls_score.bias
    assert any(p is bias for p in decaying["params"])


# detectron2


def detectron2_names() -> list[str]:
    """Parameters and statistics of detectron2's R50-C4 that a backbone fills, under its names (resnet.py,
    roi_heads.py): 53 convolutions, each with a norm of four tensors."""
    layers = ["backbone.stem.conv1"]
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        place = "roi_heads" if stage == 5 else "backbone"
        for block in range(blocks):
            parts = ["conv1", "conv2", "conv3", *(["shortcut"] if block == 0 else [])]
            layers += [f"{place}.res{stage}.{block}.{part}" for part in parts]
    norm = ("weight", "bias", "running_mean", "running_var")
    return [name for layer in layers for name in (f"{layer}.weight", *(f"{layer}.norm.{what}" for what in norm))]


def test_the_converted_file_fills_detectron2s_r50_c4_and_comes_back(tmp_path):
    torch.manual_seed(2)
    backbone = build_backbone("resnet50")
    for value in backbone.state_dict().values():
        value.copy_(torch.randn(value.shape))
    export(backbone, tmp_path / "r50.pkl")
    content = pickle.loads((tmp_path / "r50.pkl").read_bytes())
    assert content["matching_heuristics"] is True
    names = detectron2_names()
    assert len(names) == len(set(names)) == 53 * 5
    back = {}
    for name in names:
        # detectron2 gives a parameter the tensor of the longest name that ends its own
        fitting = [key for key in content["model"] if name == key or name.endswith("." + key)]
        assert len(fitting) == 1, name
        back[torchvisions(fitting[0])] = torch.from_numpy(content["model"][fitting[0]])
    unused = set(content["model"]) - {name.split(".", 1)[1] for name in names}
    assert all(key.endswith("num_batches_tracked") for key in unused)
    # The norm that the protocol adds, and the new layers, must find nothing in the file.
    for name in ("roi_heads.res5.norm.weight", "roi_heads.box_predictor.cls_score.weight",
                 "proposal_generator.rpn_head.conv.weight", "roi_heads.mask_head.deconv.bias"):  # fmt: skip
        assert not [key for key in content["model"] if name.endswith("." + key)]
    source = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert back.keys() == source.keys() and all(torch.equal(back[key], source[key]) for key in source)


def torchvisions(name: str) -> str:
    """``res2.0.conv1.norm.bias`` -> ``layer1.0.bn1.bias``."""
    name = name.removeprefix("stem.").replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return re.sub(r"^res(\d)", lambda found: f"layer{int(found[1]) - 1}", name)


@pytest.mark.parametrize("name", ["voc0712", "coco_2x"])
def test_the_files_for_detectron2_say_the_same_as_ours(name):
    import yaml

    theirs = {}
    for file in ("voc0712", name):
        merge(theirs, yaml.safe_load(open(f"tools/detectron2/{file}.yaml")))
    ours = load(f"rcfgs/detection/{name}.yaml")
    solver = theirs["SOLVER"]
    assert (solver["MAX_ITER"], tuple(solver["STEPS"])) == (ours.optim.steps, ours.optim.drops)
    assert (solver["BASE_LR"], solver["IMS_PER_BATCH"]) == (ours.optim.lr, ours.train.batch_size)
    assert solver["WARMUP_ITERS"] == ours.optim.warmup_steps
    assert tuple(theirs["INPUT"]["MIN_SIZE_TRAIN"]) == ours.views.train_sizes
    assert theirs["INPUT"]["MIN_SIZE_TEST"] == ours.views.test_size and theirs["INPUT"]["FORMAT"] == "RGB"
    for key, value in (("PIXEL_MEAN", ours.views.mean), ("PIXEL_STD", ours.views.std)):
        assert all(math.isclose(a, 255 * b) for a, b in zip(theirs["MODEL"][key], value, strict=True))
    assert theirs["MODEL"]["MASK_ON"] == ours.model.masks
    assert not theirs["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] and theirs["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0


def merge(tree: dict, other: dict) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            merge(tree.setdefault(key, {}), value)
        else:
            tree[key] = value
