"""Decoders: the same pixels from every source, whatever the images are."""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from simplejpeg import decode_jpeg

from loaders.errors import UserError
from loaders.sources import Images, Source, choice, open_images
from loaders.sources.choice import open_source
from loaders.sources.decode import decode_image
from loaders.sources.folder import FolderSource
from loaders.sources.nvjpeg import NvjpegSource
from loaders.sources.quarantine import Quarantine
from tests.helpers.decoding import IDS, decode_all
from tests.helpers.images import png16

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_folder_decodes_what_pillow_decodes(image_folder):
    names = open_images(image_folder).names
    for (images, heights, widths, labels, ids), wanted in zip(decode_all(image_folder, "folder"), IDS, strict=True):
        assert ids == wanted.tolist()
        for image, height, width, label, i in zip(images, heights, widths, labels, ids, strict=True):
            pillow = np.asarray(Image.open(image_folder / names[i]).convert("RGB"))
            assert image.shape == (height, width, 3) == pillow.shape
            assert names[i].startswith(f"class{label}/")
            assert np.abs(image.numpy().astype(int) - pillow).max() <= 2


def upsampled(data: np.ndarray, fast: bool) -> torch.Tensor:
    """libjpeg-turbo's pixels: colour of half the resolution repeated (fast), or interpolated."""
    return torch.from_numpy(decode_jpeg(data, "RGB", fastdct=False, fastupsample=fast))


def differences_to_libjpeg_turbo(source: Source, images: Images) -> tuple[list[float], list[float]]:
    """Each image's mean difference to its pixels with colour repeated, and with colour interpolated."""
    differences = []
    for batch, ids in zip(source.batches(IDS), IDS, strict=True):
        assert batch.ids.tolist() == ids.tolist() and batch.labels.tolist() == images.labels[ids].tolist()
        for image, i in zip(batch.images, ids.tolist(), strict=True):
            pixels = [upsampled(images.encoded(i), fast) for fast in (True, False)]
            assert all(image.shape == other.shape for other in pixels)
            differences.append([(image.cpu().int() - other.int()).abs().float().mean().item() for other in pixels])
    source.close()
    return tuple(zip(*differences, strict=True))


def said(repeated: list[float], interpolated: list[float]) -> str:
    return (
        f"grey levels to libjpeg-turbo's fast upsampling: {np.mean(repeated):.2f} on average, {max(repeated):.2f} at "
        f"most; to its interpolation: {np.mean(interpolated):.2f} and {max(interpolated):.2f}"
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_nvjpegs_source(image_folder, device):
    """On a GPU it repeats colour; on the CPU, where torchvision uses libjpeg-turbo, it interpolates."""
    images = open_images(image_folder)
    source = NvjpegSource(images, 2, Quarantine(images.path, 60, 0.05), torch.device(device))
    repeated, interpolated = differences_to_libjpeg_turbo(source, images)
    near, far = (interpolated, repeated) if device == "cpu" else (repeated, interpolated)
    assert max(near) < 2 and np.mean(near) < np.mean(far), said(repeated, interpolated)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("share", [0.0, 0.65, 1.0])
def test_dali_on_a_gpu_interpolates_colour_as_the_cpu_does(image_folder, share):
    pytest.importorskip("nvidia.dali")
    images, device = open_images(image_folder), torch.device("cuda", torch.cuda.current_device())
    source, _ = open_source(images, "dali", 2, Quarantine(images.path, 60, 0.05), device, share)
    repeated, interpolated = differences_to_libjpeg_turbo(source, images)
    assert max(interpolated) < 2 and np.mean(interpolated) < np.mean(repeated), said(repeated, interpolated)


def test_auto_takes_only_what_gives_the_cpus_pixels(image_folder, image_beton, monkeypatch):
    """Where everything is installed, and where nothing is but what must be."""
    there = {"ffcv", "dali", "memory", "folder", "nvjpeg"}

    def open_by_name(images, source, *arguments):
        if source not in there:
            raise choice.NotInstalled(f"{source} is not there")

    def chosen(path):
        images = open_images(path)
        return open_source(images, "auto", 1, Quarantine(images.path, 60, 0.1), torch.device("cuda", 0))[1]

    monkeypatch.setattr(choice, "_open", open_by_name)
    assert (chosen(image_folder), chosen(image_beton)) == ("DALI", "memory")
    there -= {"memory"}
    assert (chosen(image_folder), chosen(image_beton)) == ("DALI", "FFCV, since memory is not there")
    there -= {"ffcv", "dali"}
    assert chosen(image_folder) == "Python threads, since dali is not there"
    assert chosen(image_beton) == "Python threads, since memory is not there"


def test_nvjpeg_has_to_be_asked_for_and_needs_a_gpu(image_folder):
    images = open_images(image_folder)
    quarantine = Quarantine(images.path, 60, 0.1)
    with pytest.raises(UserError, match="nvJPEG decodes on a GPU, and the device is cpu: data.source=folder"):
        open_source(images, "nvjpeg", 1, quarantine)
    source, words = open_source(images, "nvjpeg", 1, quarantine, torch.device("cuda", 0))
    assert words == "nvJPEG" and isinstance(source, NvjpegSource)
    source.close()
    source, words = open_source(images, "folder", 1, quarantine, torch.device("cuda", 0))
    assert words == "Python threads" and isinstance(source, FolderSource)
    source.close()


@pytest.mark.parametrize("data", ["image_folder", "image_beton"])
@pytest.mark.parametrize("threads", [1, 2])
def test_dali_decodes_the_same_images(request, data, threads):
    pytest.importorskip("nvidia.dali")
    path = request.getfixturevalue(data)
    for dali, folder in zip(decode_all(path, "dali", threads=threads), decode_all(path, "folder"), strict=True):
        assert dali[1:] == folder[1:]
        for a, b in zip(dali[0], folder[0], strict=True):
            assert (a.int() - b.int()).abs().float().mean() < 1


@pytest.mark.parametrize("threads", [1, 2])
def test_ffcv_decodes_the_same_images(image_folder, image_beton, threads):
    pytest.importorskip("ffcv")
    torch_threads = torch.get_num_threads()
    ffcv, folder = decode_all(image_beton, "ffcv", threads=threads), decode_all(image_folder, "folder")
    beton_without_ffcv = decode_all(image_beton, "folder")
    assert torch.get_num_threads() == torch_threads
    for batches in zip(ffcv, folder, beton_without_ffcv, strict=True):
        first, *others = batches
        for other in others:
            assert first[1:] == other[1:]
            for a, b in zip(first[0], other[0], strict=True):
                error = (a.int() - b.int()).abs().float()
                assert error.mean() < 2  # FFCV asks libjpeg for its fast, rougher transform


@pytest.mark.parametrize("data", ["image_folder", "image_beton"])
def test_memory_holds_what_the_folder_source_decodes(request, data):
    path = request.getfixturevalue(data)
    for kept, decoded in zip(decode_all(path, "memory"), decode_all(path, "folder"), strict=True):
        assert kept[1:] == decoded[1:]
        assert all(torch.equal(a, b) for a, b in zip(kept[0], decoded[0], strict=True))


@pytest.mark.parametrize("source", ["ffcv", "folder", "memory"])
def test_raw_pixels_come_back_exactly(image_folder, tmp_path, source):
    if source == "ffcv":
        pytest.importorskip("ffcv")
    from loaders.beton.convert import convert
    from loaders.beton.encoding import Storage
    from loaders.datasets.folder import class_tree

    convert(class_tree(image_folder), tmp_path / "raw.beton", Storage(raw=True))
    for (raw, *facts), (jpeg, *expected) in zip(
        decode_all(tmp_path / "raw.beton", source), decode_all(image_folder, "folder"), strict=True
    ):
        assert facts == expected
        assert all((a.int() - b.int()).abs().max() <= 2 for a, b in zip(raw, jpeg, strict=True))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.effect_mandelbrot((30, 20), (-2, -1, 1, 1), 50).convert("RGB").convert(mode)
    path = tmp_path / ("x.jpg" if mode in ("L", "CMYK") else "x.png")
    image.save(path)
    pixels = decode_image(path.read_bytes())
    assert pixels.shape == (20, 30, 3) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(pixels.numpy() - expected).mean() < 2


def test_sixteen_bit_grey_keeps_its_range():
    pixels = decode_image(png16(64, 4))
    assert pixels.shape == (4, 64, 3) and pixels.min() == 0 and pixels.max() > 250


def test_an_exception_in_ffcvs_thread_reaches_the_caller(image_beton, monkeypatch):
    pytest.importorskip("ffcv")
    from loaders.sources import beton

    def fail(*_):
        raise MemoryError("no memory for the next batch")

    monkeypatch.setattr(beton.EpochIterator, "run_pipeline", fail)
    with pytest.raises(MemoryError, match="next batch"):
        decode_all(image_beton, "ffcv")


def test_ffcvs_loader_goes_with_its_source_and_leaves_numbas_types_as_they_are(image_beton):
    numba = pytest.importorskip("numba")
    pytest.importorskip("ffcv")
    images = open_images(image_beton)
    source, _ = open_source(images, "ffcv", 1, Quarantine(images.path, len(images), 0.1))
    assert sum(len(batch.ids) for batch in source.batches(IDS)) == sum(map(len, IDS))
    source.close()
    loader = weakref.ref(source._loader)
    del source
    gc.collect()
    assert loader() is None
    assert numba.uint8[::1].mutable and numba.uint64[::1].mutable  # each is one object in the whole process


def test_places_without_images_are_named(tmp_path, image_folder):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(UserError, match="no file in any of the 1 class folders"):
        open_images(tmp_path / "empty")
    with pytest.raises(UserError, match="does not exist"):
        open_images(tmp_path / "missing")
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(UserError, match="holds no images that can be read here: give a .beton file"):
        open_images(tmp_path / "list.txt")
    images = open_images(image_folder)
    quarantine = Quarantine(images.path, len(images), 0.1)
    with pytest.raises(UserError, match="convert it with tools/write_ffcv.py"):
        open_source(images, "ffcv", 1, quarantine)
    with pytest.raises(UserError, match="choose one of auto, ffcv, dali, memory, folder"):
        open_source(images, "webdataset", 1, quarantine)


def test_without_ffcv_a_beton_is_read_in_threads_and_this_is_said(image_beton, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv", None)  # what Python does for a package that is not there
    monkeypatch.delitem(sys.modules, "loaders.sources.beton", raising=False)
    monkeypatch.setitem(sys.modules, "ffcv.loader", None)
    images = open_images(image_beton)
    quarantine = Quarantine(images.path, len(images), 0.1)
    source, explanation = open_source(images, "auto", 1, quarantine)
    assert explanation.startswith("Python threads, since FFCV does not load")
    assert [batch.ids.tolist() for batch in source.batches(IDS)] == [ids.tolist() for ids in IDS]
    with pytest.raises(UserError, match="make setup"):
        open_source(images, "ffcv", 1, quarantine)
