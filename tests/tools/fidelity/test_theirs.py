"""A program of the authors' form, written here, runs in its own process on a CPU, and is followed from outside."""

import numpy as np
import pytest
import torch
from PIL import Image

from loaders.errors import UserError
from loaders.multicrop import draws
from tools.fidelity.their_process import ask
from tools.fidelity.theirs.training import _permutations

# As the authors' programs: GPUs, DistributedDataParallel, synchronised BatchNorm, wandb, a loader of workers.
PROGRAM = """
import argparse, torch, wandb
import torch.multiprocessing as mp
import torch.distributed as dist
import torchvision.datasets as datasets
import torchvision.transforms as T
from PIL import ImageFilter, ImageOps
from tqdm import trange
from methods import get_method

class Blur:
    def __call__(self, image): return image.filter(ImageFilter.GaussianBlur(radius=1.5))

class Solarize:
    def __call__(self, image): return ImageOps.solarize(image)

class Two:
    def __init__(self, transform): self.transform = transform
    def __call__(self, image): return [self.transform(image), self.transform(image)]

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--method", default="mine")
    mp.spawn(worker, nprocs=torch.cuda.device_count(), args=(torch.cuda.device_count(), parser.parse_args()))

def worker(gpu, gpus, cfg):
    wandb.init(project="x", config=cfg)
    dist.init_process_group(backend="nccl", init_method="tcp://localhost:1", world_size=1, rank=0)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(get_method(cfg.method)(cfg))
    torch.cuda.set_device(gpu)
    model.cuda(gpu)
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[gpu])
    optimizer = torch.optim.SGD(model.parameters(), 0, momentum=0.9)
    transform = T.Compose([
        T.RandomResizedCrop(8, scale=(0.5, 1)), T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.7),
        T.RandomGrayscale(p=0.3), T.RandomApply([Blur()], p=0.5), T.RandomApply([Solarize()], p=0.2),
        T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
    ])
    dataset = datasets.ImageFolder("nowhere/train", Two(transform))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=9, drop_last=True)
    for epoch in trange(0, cfg.epochs):
        for step, (samples, _) in enumerate(loader):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 + step + epoch * len(loader))
            model.module.m = 1 - 1 / (2 + epoch)
            optimizer.zero_grad()
            loss = model([sample.cuda(gpu) for sample in samples])
            loss.backward()
            optimizer.step()
        wandb.log({"loss": loss.item()})
"""
METHODS = """
import torch
class Mine(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
        self.m = 0
    def forward(self, samples):
        a, b = (self.backbone(x) for x in samples)
        return ((a - b) ** 2).mean()
def get_method(name): return Mine
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "methods.py").write_text(METHODS)
    return str(tmp_path / "program.py")


def test_the_first_steps_are_followed(script):
    generator = torch.Generator().manual_seed(0)
    batches = [[torch.rand(6, 3, 8, 8, generator=generator) for _ in range(2)] for _ in range(3)]
    orders = [torch.tensor([5, 2, 0, 1, 4, 3])]
    job = {"script": script, "arguments": ["--epochs", "3"], "batches": batches, "orders": orders, "partitions": []}
    answer = ask("training", "steps", {**job, "probe": batches[0][0]})
    assert answer["lr"] == [0.01, 0.02, 0.03] and answer["momentum"] == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    # The same from the same start, without any of that.
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    backbone.load_state_dict({name.removeprefix("backbone."): value for name, value in answer["start"].items()})
    optimizer, losses = torch.optim.SGD(backbone.parameters(), 0, momentum=0.9), []
    for step, (a, b) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        loss = (backbone(a) - backbone(b)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for name, value in backbone.named_parameters():
            torch.testing.assert_close(answer["weights"][step][f"backbone.{name}"], value.detach())
    assert answer["loss"] == pytest.approx(losses, rel=1e-6)
    torch.testing.assert_close(answer["features"], backbone.eval()(batches[0][0]).detach())
    for again in (*answer["reordered"], answer["channels_last"]):  # only rounding lies between
        assert again["loss"] == pytest.approx(losses, rel=1e-4) and max(again["distance"]) < 1e-3


def test_schedules_are_those_of_whole_runs(script):
    job = {"script": script, "arguments": [["--epochs", "2"], ["--epochs", "4"]], "epoch_steps": 3}
    short, long = ask("training", "schedules", job)["runs"]
    assert short["lr"] == pytest.approx([0.01 * step for step in range(1, 7)])
    assert len(long["lr"]) == 12 and long["momentum"][-1] == pytest.approx(0.8)


def test_what_is_drawn_for_a_view_is_written_down(script):
    images = [
        torch.randint(256, (20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        for i in range(40)
    ]
    job = {"script": script, "arguments": ["--epochs", "1"], "images": images, "seeds": [0, 1]}
    first, second = ask("crops", "view", job)["seeds"]
    table = first["draws"].numpy()
    assert table.shape == (40, 2, draws.COLUMNS) and not np.array_equal(table, second["draws"].numpy())
    area = table[..., draws.HEIGHT] * table[..., draws.WIDTH] / (20 * 30)
    assert area.min() > 0.45 and (table[..., draws.TOP] + table[..., draws.HEIGHT]).max() <= 20
    jittered = table[..., draws.JITTER_ORDER] >= 0
    assert 0.5 < jittered.mean() < 0.9 and (table[~jittered][:, draws.BRIGHTNESS] == 0).all()
    assert np.abs(table[jittered][:, draws.BRIGHTNESS : draws.HUE] - 1).max() <= 0.4
    assert set(table[..., draws.BLUR_SIGMA].ravel()) == {0, 1.5}
    for column, share in ((draws.FLIP, 0.5), (draws.GRAYSCALE, 0.3), (draws.SOLARIZE, 0.2)):
        assert abs(table[..., column].mean() - share) < 0.2
    # A view to which nothing was done is the box, resized by Pillow; its statistics are in grey levels.
    plain = ~jittered & (table[..., [draws.FLIP, draws.GRAYSCALE, draws.SOLARIZE, draws.BLUR_SIGMA]] == 0).all(-1)
    index, view = np.argwhere(plain)[0]
    top, left, height, width = table[index, view, :4].astype(int)
    box = Image.fromarray(images[index].numpy()).crop((left, top, left + width, top + height))
    pixels = np.asarray(box.resize((8, 8), Image.Resampling.BILINEAR), float)
    np.testing.assert_allclose(first["pixels"][view]["mean"][index], pixels.mean((0, 1)), rtol=1e-5)
    assert first["pixels"][0]["histogram"].sum() == 40 * 8 * 8 * 3


def test_an_error_of_their_code_is_one_sentence(script):
    with pytest.raises(UserError, match="the authors' code ended with an error: .*--epoch"):
        ask("training", "schedules", {"script": script, "arguments": [["--epoch"]], "epoch_steps": 1})


def test_reordered_samples_are_cut_alike():
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([torch.randperm(12, generator=generator) for _ in range(2)])
    channels = torch.rand(3, 2, 4, 5, generator=generator).argsort()  # 3 views, 2 cuts, 4 sub-batches, 5 channels
    order = torch.randperm(12, generator=generator)
    plain, reordered = (list(_permutations(samples, channels, one)) for one in (None, order))
    assert len(plain) == len(reordered) == 2 * (1 + 4 * 3)
    for number, (before, after) in enumerate(zip(plain, reordered, strict=True)):
        if number % 13 == 0:  # a cut
            cuts = before.view(4, 3), order[after].view(4, 3)
            assert torch.equal(*(cut.sort(1).values for cut in cuts))
        else:
            assert torch.equal(before, after)
