"""What the doctor and bench.py loader time: every image once a pass, and processor time that is really spent."""

import time

import numpy as np
import pytest

from loaders import CropSpec, MultiCrop
from loaders.planning import rates
from loaders.planning.data_facts import data_facts
from loaders.sources import open_images
from loaders.sources.quarantine import Quarantine


def test_a_rate_counts_images_and_the_processor_time_that_they_cost():
    def ready():
        while True:
            end = time.process_time() + 0.01
            while time.process_time() < end:
                pass
            time.sleep(0.01)
            yield 5

    rate = rates.measure(ready(), 0, least=18)  # four times five images
    assert rate.cpu_seconds_per_image >= 0.04 / 20 and 0 < rate.images_per_second <= 20 / 0.08
    assert rates.take(ready(), 0.1) >= 5 and rates.take(ready(), 0, 11) == 15


@pytest.mark.parametrize("source", ["ffcv", "dali", "folder"])
def test_a_pass_decodes_every_image_once(source, image_beton):
    pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}.get(source, "numpy"))
    images = open_images(image_beton)
    quarantine = Quarantine(images.path, len(images), 1.0)
    ready = rates.decoding(images, np.arange(20), source, 8, 1, quarantine)
    assert [next(ready) for _ in range(6)] == [8, 8, 4] * 2
    ready.close()
    assert rates.decode_rate(images, data_facts(images), source, quarantine) > 0 and not len(quarantine)


def test_all_images_that_are_cropped_count(image_beton):
    images, recipe = open_images(image_beton), MultiCrop((CropSpec(24), CropSpec(16)))
    quarantine = Quarantine(images.path, len(images), 1.0)
    ready = rates.cropping(images, [3, 9, 27], recipe, 1, quarantine)
    assert [next(ready) for _ in range(3)] == [3, 3, 3]
    ready.close()
    assert rates.crop_rate(images, data_facts(images), recipe, quarantine) > 0
