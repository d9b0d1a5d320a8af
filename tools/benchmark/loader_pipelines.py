"""The pipelines that ``bench.py loader`` compares, from images on disk to normalised crops: this project's, and what
others do for the same crops, each as a good user of that library writes it.

Every function returns an endless iterator over the number of images that are ready.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from loaders.beton.file import JPEG
from loaders.loader import make_loader
from loaders.planning.rates import cropping, decoding
from loaders.recipe import MultiCrop
from loaders.sources import open_images
from loaders.sources.images import BetonImages
from loaders.sources.quarantine import Quarantine

_PASS = 20_000  # images, so that few ends of a pass are timed


@dataclass(frozen=True)
class Workload:
    """What every pipeline is given to do.

    Attributes:
        data: the dataset that was named, a ``.beton`` file or a folder.
        beton: the same images as a ``.beton``; ``data`` itself if it is one.
        recipe: the views.
        batch_size: images in a batch, where there are batches.
        threads: threads of a process, one for each of its cores.
        device: where the views are wanted.
    """

    data: Path
    beton: Path
    recipe: MultiCrop
    batch_size: int
    threads: int
    device: str = "cpu"

    def path(self, source: str) -> Path:
        """What one of our sources reads."""
        return self.beton if source == "ffcv" else self.data

    def streams(self) -> Iterator[np.ndarray]:
        """The images' JPEG bytes in a random order, without end."""
        images = BetonImages(self.beton)
        ids = np.flatnonzero(images.modes == JPEG)
        generator = np.random.default_rng(0)
        while True:
            for i in generator.permutation(ids):
                yield images.read(int(i))


def full_path(work: Workload, source: str) -> Iterator[int]:
    """This project: decode, crops, colour, normalise."""
    path = work.path(source)
    how = {"source": source, "device": work.device, "threads": work.threads}
    loader = make_loader(path, work.recipe, work.batch_size, samples=_long_pass(len(open_images(path))), **how)
    while True:
        for batch in loader:
            yield len(batch.ids)


def decode_only(work: Workload, source: str) -> Iterator[int]:
    """This project: what is left to the host when the crops are cut on a GPU."""
    images = open_images(work.path(source))
    quarantine, device = Quarantine(images.path, len(images), max_bad=0.05), torch.device(work.device)
    return decoding(images, _long_pass(len(images)), source, work.batch_size, work.threads, quarantine, device)


def crops_on_gpu(work: Workload) -> Iterator[int]:
    """This project: the crops alone, of one decoded batch that lies on the GPU."""
    images = open_images(work.data)
    quarantine, device = Quarantine(images.path, len(images), max_bad=0.05), torch.device(work.device)
    ids = np.resize(np.arange(len(images)), work.batch_size)
    return cropping(images, ids, work.recipe, work.threads, quarantine, device, torch.bfloat16)


def authors_pipeline(work: Workload) -> Iterator[int]:
    """Six torchvision pipelines on one PIL image: the augmentation of INTL's released code."""
    from PIL import Image, ImageFilter, ImageOps
    from torchvision import transforms as T

    def blur(image: Image.Image, sigma: tuple[float, float]) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*sigma)))

    def pipeline(spec) -> T.Compose:
        bicubic = T.InterpolationMode.BICUBIC
        jitter = T.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
        return T.Compose(
            [
                T.RandomResizedCrop(spec.size, spec.scale, spec.ratio, interpolation=bicubic),
                T.RandomApply([jitter], spec.jitter),
                T.RandomGrayscale(spec.grayscale),
                T.RandomApply([T.Lambda(lambda image: blur(image, spec.blur_sigma))], spec.blur),
                T.RandomApply([T.Lambda(lambda image: ImageOps.solarize(image, 128))], spec.solarize),
                T.RandomHorizontalFlip(spec.flip),
                T.ToTensor(),
                T.Normalize(work.recipe.mean, work.recipe.std),
            ]
        )

    views = [pipeline(spec) for spec in work.recipe.views]
    for data in work.streams():
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for view in views:
            view(image)
        yield 1


def torchvision_v2(work: Workload) -> Iterator[int]:
    """Six pipelines of torchvision's newer transforms, on uint8 tensors."""
    from simplejpeg import decode_jpeg
    from torchvision.transforms import v2

    def pipeline(spec) -> v2.Compose:
        bicubic = v2.InterpolationMode.BICUBIC
        jitter = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
        reach = 2 * int(np.ceil(3 * spec.blur_sigma[1])) + 1
        return v2.Compose(
            [
                v2.RandomResizedCrop(spec.size, spec.scale, spec.ratio, interpolation=bicubic, antialias=True),
                v2.RandomApply([jitter], spec.jitter),
                v2.RandomGrayscale(spec.grayscale),
                v2.RandomApply([v2.GaussianBlur(reach, spec.blur_sigma)], spec.blur),
                v2.RandomSolarize(128, spec.solarize),
                v2.RandomHorizontalFlip(spec.flip),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(work.recipe.mean, work.recipe.std),
            ]
        )

    views = [pipeline(spec) for spec in work.recipe.views]
    for data in work.streams():
        image = torch.from_numpy(decode_jpeg(data, "RGB")).permute(2, 0, 1)
        for view in views:
            view(image)
        yield 1


def dali_native(work: Workload) -> Iterator[int]:
    """DALI's CPU backend: one decode, six times the same augmentations by its own operators and random numbers."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=work.batch_size, num_threads=work.threads, device_id=None, enable_conditionals=True)
    def pipeline():
        encoded = fn.external_source(source=_batches(work), batch=True)
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        views = []
        for spec in work.recipe.views:
            view = fn.random_resized_crop(
                images,
                size=(spec.size, spec.size),
                random_area=spec.scale,
                random_aspect_ratio=spec.ratio,
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            if fn.random.coin_flip(probability=spec.jitter, dtype=types.BOOL):
                view = fn.color_twist(
                    view,
                    brightness=fn.random.uniform(range=[1 - spec.brightness, 1 + spec.brightness]),
                    contrast=fn.random.uniform(range=[1 - spec.contrast, 1 + spec.contrast]),
                    saturation=fn.random.uniform(range=[1 - spec.saturation, 1 + spec.saturation]),
                    hue=fn.random.uniform(range=[-360 * spec.hue, 360 * spec.hue]),
                )
            if fn.random.coin_flip(probability=spec.grayscale, dtype=types.BOOL):
                view = fn.saturation(view, saturation=0.0)
            if fn.random.coin_flip(probability=spec.blur, dtype=types.BOOL):
                view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=list(spec.blur_sigma)))
            if fn.random.coin_flip(probability=spec.solarize, dtype=types.BOOL):
                dark = fn.cast(view < 128, dtype=types.UINT8)
                view = fn.cast(dark * view + (1 - dark) * (255 - view), dtype=types.UINT8)
            mean, std = ([255 * value for value in values] for values in (work.recipe.mean, work.recipe.std))
            mirror = fn.random.coin_flip(probability=spec.flip)
            views.append(fn.crop_mirror_normalize(view, mean=mean, std=std, mirror=mirror, output_layout="HWC"))
        return tuple(views)

    built = pipeline()
    built.build()
    while True:
        built.run()
        yield work.batch_size


def ffcv_six_decodes(work: Workload) -> Iterator[int]:
    """FFCV's own way to six crops: six decoders on one field. No colour: FFCV has no such operations."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.reader import Reader

    views = {
        f"view{i}": PipelineSpec(
            "image", RandomResizedCropRGBImageDecoder((spec.size, spec.size), spec.scale, spec.ratio), []
        )
        for i, spec in enumerate(work.recipe.views)
    }
    others = {name: None for name in Reader(str(work.beton)).field_names}
    loader = Loader(
        str(work.beton),
        batch_size=work.batch_size,
        num_workers=work.threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        pipelines={**views, **others},
    )
    while True:
        for batch in loader:
            yield len(batch[0])


def plain_decode(work: Workload) -> Iterator[int]:
    """One plain libjpeg-turbo decode of each image, with FFCV's fast transform."""
    from simplejpeg import decode_jpeg

    for data in work.streams():
        decode_jpeg(data, "RGB", fastdct=True, fastupsample=False)
        yield 1


def decode_and_resize(work: Workload) -> Iterator[int]:
    """One plain decode of each image and torch's antialiased bicubic kernel once a view, without colour."""
    from simplejpeg import decode_jpeg
    from torch.nn.functional import interpolate
    from torchvision.transforms.v2 import RandomResizedCrop

    crops = [RandomResizedCrop(spec.size, spec.scale, spec.ratio) for spec in work.recipe.views]
    for data in work.streams():
        image = torch.from_numpy(decode_jpeg(data, "RGB", fastdct=True, fastupsample=False)).permute(2, 0, 1)[None]
        for spec, crop in zip(work.recipe.views, crops, strict=True):
            box = crop.make_params([image])
            window = image[..., box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
            interpolate(window, (spec.size, spec.size), mode="bicubic", antialias=True)
        yield 1


def _batches(work: Workload) -> Iterator[list[np.ndarray]]:
    streams = work.streams()
    while True:
        yield [next(streams) for _ in range(work.batch_size)]


def _long_pass(images: int) -> np.ndarray:
    """The ids of all images, repeated to at least ``_PASS``."""
    return np.tile(np.arange(images), -(-_PASS // images))
