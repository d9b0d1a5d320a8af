import copy

import pytest
import torch
import torchvision

from fastintl.network import lockstep
from fastintl.network.model import Encoder, JointEmbedding, build_backbone, build_projector
from fastintl.network.names import ARCHITECTURES
from loaders.errors import UserError


def small_model(with_target, views_together=False):
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("resnet8", "cifar"), build_projector(128, (16, 8)))
    return JointEmbedding(encoder, with_target, views_together)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_backbone_is_torchvisions(arch):
    torch.manual_seed(0)
    ours = build_backbone(arch)
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(arch, zero_init_residual=True)
    theirs_state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert ours.state_dict().keys() == theirs_state.keys()
    assert all(torch.equal(v, theirs_state[k]) for k, v in ours.state_dict().items())
    assert ours.feature_dim == theirs.fc.in_features
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing == ["fc.weight", "fc.bias"] and not unexpected


STEMS_GRIDS = [("imagenet", 64, 16), ("cifar", 32, 32), ("cifar_padded", 32, 34), ("small", 64, 32)]


@pytest.mark.parametrize("stem, pixels, grid", STEMS_GRIDS)
def test_stems(stem, pixels, grid):
    backbone = build_backbone("resnet8", stem).eval()
    seen = []
    backbone.layer1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    assert backbone(torch.randn(2, 3, pixels, pixels)).shape == (2, 128)
    assert seen == [grid]


def test_the_padded_cifar_network_is_the_cifar_network_on_padded_images():
    """As in INTL's code: zeros around the image, then the convolution with its own padding."""
    torch.manual_seed(0)
    padded, plain = build_backbone("resnet18", "cifar_padded").eval(), build_backbone("resnet18", "cifar").eval()
    plain.load_state_dict(padded.state_dict())
    maps = []
    for stage in (padded.layer1, padded.layer2, padded.layer3, padded.layer4):
        stage.register_forward_hook(lambda _, __, output: maps.append(output.shape[-1]))
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(padded(images), plain(torch.nn.functional.pad(images, (1, 1, 1, 1))))
    assert maps == [34, 17, 9, 5]


def test_zero_init_residual():
    weights = {flag: build_backbone("resnet8", "cifar", flag).layer1[0].bn2.weight for flag in (False, True)}
    assert (weights[True] == 0).all() and (weights[False] == 1).all()


def test_unknown_names_say_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        build_backbone("resnet5O")
    with pytest.raises(UserError, match="did you mean 'cifar'"):
        build_backbone("resnet18", "cifar10")
    assert "wide_resnet50_2" in ARCHITECTURES
    with pytest.raises(UserError, match="widths"):
        build_projector(512, [])


def test_projector_layers():
    names = [type(layer).__name__ for layer in build_projector(12, (8, 6, 4))]
    assert names == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    projector = build_projector(12, (8, 6, 4))
    assert projector[0].bias is None and projector[3].bias is None and projector[6].bias is not None
    assert projector(torch.randn(5, 12)).shape == (5, 4)
    assert len(build_projector(12, (4,))) == 1


def test_views_without_target_are_batches_of_their_own():
    model = small_model(False)
    views = [torch.randn(4, 3, s, s) for s in (16, 16, 12)]
    online, target = model(views)
    assert online.shape == (3, 4, 8) and target is None
    fresh = small_model(False)
    for i, view in enumerate(views):
        torch.testing.assert_close(online[i], fresh.encoder(view))
    torch.testing.assert_close(dict(model.named_buffers()), dict(fresh.named_buffers()))


@pytest.mark.parametrize("with_target", [False, True])
def test_views_together_are_one_batch_to_the_projector(with_target):
    """The plain network: the backbone view by view, then the projector on all views of the online network at once."""
    model = small_model(with_target, views_together=True)
    with torch.no_grad():  # views that differ: their own statistics are not those of all
        views = [torch.randn(4, 3, s, s) * (1 + i) + i for i, s in enumerate((16, 16, 12))]
    online, target = model(views)
    fresh = small_model(with_target)
    ours = views[1:] if with_target else views
    expected = fresh.encoder.projector(torch.cat([fresh.encoder.backbone(view) for view in ours]))
    torch.testing.assert_close(online, torch.stack(expected.chunk(len(ours))))
    if with_target:
        torch.testing.assert_close(target, fresh.target(views[0]).detach())
        assert not target.requires_grad
    torch.testing.assert_close(dict(model.named_buffers()), dict(fresh.named_buffers()))
    weights = torch.randn(online.shape)
    (online * weights).sum().backward()
    (expected * weights.flatten(0, 1)).sum().backward()
    for (name, p), q in zip(model.encoder.named_parameters(), fresh.encoder.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=name)
    apart, _ = small_model(with_target)(views)
    assert (apart - online).norm() > 0.01 * online.norm()


@pytest.mark.parametrize("views_together", [False, True])
@pytest.mark.parametrize("with_target", [False, True])
def test_the_projector_compiles_as_one_graph(with_target, views_together):
    found = []
    compiled = torch.compile(lockstep.head, fullgraph=True, dynamic=False, backend="aot_eager")
    for head in (lockstep.head, compiled):
        model = small_model(with_target, views_together)
        model.regions = lockstep.Regions(head=head)
        online, _ = model([torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
        online.square().sum().backward()
        gradients = [p.grad for p in model.encoder.parameters()]
        found.append([online.detach(), *gradients, *model.state_dict().values()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_lockstep_is_torchvisions_forward_pass():
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("resnet50", zero_init_residual=False), build_projector(2048, (16, 8)))
    model = JointEmbedding(copy.deepcopy(encoder), False)
    views = [torch.randn(4, 3, s, s) for s in (32, 48)]
    online, _ = model(views)
    expected = torch.stack([encoder(view) for view in views])
    torch.testing.assert_close(online, expected, rtol=1e-4, atol=1e-4)
    online.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(model.encoder.named_parameters(), encoder.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-3 * q.grad.norm(), name


def test_target_sees_view_zero_alone():
    model = small_model(True)
    views = [torch.randn(4, 3, s, s) for s in (16, 12, 12)]
    online, target = model(views)
    assert online.shape == (2, 4, 8) and target.shape == (4, 8)
    assert online.requires_grad and not target.requires_grad
    fresh = small_model(False).encoder
    torch.testing.assert_close(target, fresh(views[0]))  # training mode, and only this batch in its statistics
    torch.testing.assert_close(dict(model.target.named_buffers()), dict(fresh.named_buffers()))
    fresh = small_model(False).encoder
    torch.testing.assert_close(online[1], (fresh(views[1]), fresh(views[2]))[1])
    torch.testing.assert_close(dict(model.encoder.named_buffers()), dict(fresh.named_buffers()))


def test_update_target_moves_parameters_only():
    model = small_model(True)
    before = {name: p.clone() for name, p in model.target.named_parameters()}
    for p in model.encoder.parameters():
        p.data += 1
    model([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])
    buffers = {name: b.clone() for name, b in model.target.named_buffers()}
    model.update_target(0.75)
    for name, p in model.target.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.25)
        assert not p.requires_grad
    assert all(torch.equal(b, buffers[name]) for name, b in model.target.named_buffers())
    small_model(False).update_target(0.9)  # nothing to do


def test_state_dict_keys():
    keys = small_model(True).state_dict().keys()
    assert {"encoder.backbone.conv1.weight", "encoder.projector.0.weight", "target.projector.3.bias"} <= keys
    assert {key.split(".")[0] for key in keys} == {"encoder", "target"}
    assert {key.split(".")[0] for key in small_model(False).state_dict()} == {"encoder"}
