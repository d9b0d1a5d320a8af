"""Annotated images in the layouts of VOC and COCO: what is read, what is left out and told, what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastintl.config.options import build
from fastintl.detection.augment import fitted, training_view
from fastintl.detection.average_precision import coco_metrics, voc_metrics
from fastintl.detection.config import DetectionConfig, Views
from fastintl.detection.datasets import read_coco, read_sets, read_voc
from fastintl.detection.loader import TrainingLoader
from loaders import UserError
from tests.detection_sets import CLASSES, box, draw, voc_xml, write_coco, write_voc
from tests.fuzzing.annotated import perfect


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_voc(root / "voc", 6, 2)
    write_coco(root / "coco", 6, 2)
    return root


@pytest.fixture
def voc(sets, tmp_path) -> Path:
    return shutil.copytree(sets / "voc", tmp_path / "voc")


@pytest.fixture
def coco(sets, tmp_path) -> Path:
    return shutil.copytree(sets / "coco", tmp_path / "coco")


def change_coco(root: Path, change, split: str = "train2017") -> None:
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_both_layouts_give_the_objects_that_were_drawn(sets):
    of_voc = read_voc(sets / "voc", "VOC2007/trainval", CLASSES)
    of_coco = read_coco(sets / "coco", "train2017", masks=True)
    assert of_voc.classes == of_coco.classes == CLASSES
    assert of_voc.category_ids == (1, 2, 3) and of_coco.category_ids == (1, 3, 5)
    for i, (a, b) in enumerate(zip(of_voc.images, of_coco.images, strict=True)):
        _, shapes = draw(i)
        for image in (a, b):
            assert image.boxes.tolist() == [list(box(mask)) for _, _, mask in shapes]
            assert image.labels.tolist() == [kind + 1 for kind, _, _ in shapes]
        assert b.masks().shape == (len(shapes), 96, 96)
        for found, (_, _, mask) in zip(b.masks(), shapes, strict=True):
            assert (found != mask).sum() < 0.15 * mask.sum()  # pycocotools fills polygons by another rule of edges


def test_a_set_is_known_by_the_bytes_of_its_images_and_by_its_boxes(coco):
    def content() -> str:
        return read_coco(coco, "train2017", masks=False).content()

    first = content()
    assert content() == first
    change_coco(coco, lambda c: c["annotations"][0]["bbox"].__setitem__(2, c["annotations"][0]["bbox"][2] - 1))
    moved = content()
    image = read_coco(coco, "train2017", masks=False).images[1].path
    data = bytearray(image.read_bytes())
    data[-3] ^= 1
    image.write_bytes(data)
    assert len({first, moved, content()}) == 3


def test_the_devkits_own_folder_will_do(voc, tmp_path):
    shutil.move(voc / "VOC2007", tmp_path / "unpacked" / "VOCdevkit" / "VOC2007")
    assert len(read_voc(tmp_path / "unpacked", "VOC2007/test", CLASSES)) == 2


def test_run_lengths_are_masks_too(coco):
    from pycocotools import mask as coco_masks

    _, shapes = draw(0)

    def to_run_lengths(content):
        mine = [a for a in content["annotations"] if a["image_id"] == 0]
        for found, (_, _, mask) in zip(mine, shapes, strict=True):
            found["segmentation"] = {"size": [96, 96], "counts": counts(mask)}

    def counts(mask):
        flat = np.concatenate([[0], mask.T.ravel(), [2]])
        return np.diff(np.flatnonzero(np.diff(flat) != 0), prepend=0).tolist() if mask.any() else []

    change_coco(coco, to_run_lengths)
    found = read_coco(coco, "train2017", masks=True).images[0].masks()
    assert (found == np.stack([mask for _, _, mask in shapes])).all()
    encoded = coco_masks.encode(np.asfortranarray(shapes[0][2].astype(np.uint8)))

    def to_text(content):
        content["annotations"][0]["segmentation"] = {"size": [96, 96], "counts": encoded["counts"].decode()}

    change_coco(coco, to_text)
    assert (read_coco(coco, "train2017", masks=True).images[0].masks()[0] == shapes[0][2]).all()


def test_what_has_no_area_or_outline_is_left_out_and_told(voc, coco):
    xml = voc_xml(96, 96, [("disc", (10, 10, 10, 40)), ("disc", (90, 5, 200, 50)), ("square", (200, 5, 210, 50))])
    (voc / "VOC2007/Annotations/000000.xml").write_text(xml)
    annotated = read_voc(voc, "VOC2007/trainval", CLASSES)
    assert annotated.images[0].boxes.tolist() == [[90, 5, 96, 50]]  # cut to the image
    (note,) = annotated.notes
    assert note.startswith("left out: boxes without an area, 2, the first in ") and note.endswith("000000.xml")

    def spoil(content):
        content["annotations"][0]["bbox"][2] = 0
        content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
        content["annotations"][2]["iscrowd"] = 1

    whole = sum(len(image.boxes) for image in read_coco(coco, "train2017", masks=True).images)
    change_coco(coco, spoil)
    for masks, left in ((True, 3), (False, 2)):
        annotated = read_coco(coco, "train2017", masks)
        assert sum(len(image.boxes) for image in annotated.images) == whole - left
        assert [", 1, the first in 0000" in note for note in annotated.notes] == [True] * (2 if masks else 1)


def config_of(root: Path, layout: str, **model) -> DetectionConfig:
    splits = {"voc": ("VOC2007/trainval", "VOC2007/test"), "coco": ("train2017", "val2017")}[layout]
    flat = {"data.layout": layout, "data.root": str(root), "data.train": [splits[0]], "data.test": splits[1]}
    if layout == "voc":
        flat["data.classes"] = list(CLASSES)
    return build(DetectionConfig, flat | {f"model.{key}": value for key, value in model.items()})


def test_images_without_objects_are_tested_on_but_not_trained_on(voc, coco):
    (voc / "VOC2007/Annotations/000003.xml").write_text(voc_xml(96, 96, []))
    (voc / "VOC2007/Annotations/100001.xml").write_text(voc_xml(96, 96, []))
    for root, layout in ((voc, "voc"), (coco, "coco")):
        for split, number in (("train2017", 3), ("val2017", 100_001)) if layout == "coco" else ():
            change_coco(coco, lambda c, n=number: c.update(
                annotations=[a for a in c["annotations"] if a["image_id"] != n]), split)  # fmt: skip
        train, test = read_sets(config_of(root, layout))
        assert len(train) == 5 and train.notes[-1] == "not trained on: images without objects, 1 of 6"
        assert len(test) == 2 and len(test.images[1].boxes) == 0


def in_xml(old: str, new: str):
    def change(root: Path) -> None:
        path = root / "VOC2007/Annotations/000001.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: shutil.rmtree(r / "VOC2007"), "holds no folder VOC2007"),
        (lambda r: (r / "VOC2007/ImageSets/Main/trainval.txt").unlink(), "trainval.txt does not exist"),
        (lambda r: (r / "VOC2007/ImageSets/Main/trainval.txt").write_text("\n"), "lists no images"),
        (lambda r: (r / "VOC2007/Annotations/000002.xml").unlink(), "000002.xml does not exist"),
        (lambda r: (r / "VOC2007/Annotations/000002.xml").write_text("<annotation>"), "000002.xml cannot be read"),
        (lambda r: (r / "VOC2007/Annotations/000002.xml").write_text("<a/>"), "000002.xml cannot be read as VOC"),
        (lambda r: (r / "VOC2007/JPEGImages/000002.jpg").unlink(), "are missing, 1 in all, the first is .*000002.jpg"),
        (lambda r: shutil.rmtree(r / "VOC2007/JPEGImages"), "JPEGImages does not exist"),
        (
            lambda r: (r / "VOC2007/Annotations/000001.xml").write_text(voc_xml(96, 96, [("cat", (1, 1, 9, 9))])),
            "000001.xml has an object of the class 'cat', which is none of disc, square, triangle: set data.classes",
        ),
        (in_xml("<xmin>", "<xmin>x"), "000001.xml cannot be read as .*: the xmin of an object '[a-z]+' is 'x"),
        (in_xml("<difficult>0", "<difficult>No"), "000001.xml .* has the mark difficult 'No', neither 0 nor 1"),
        (in_xml("<xmin>", "<left>"), "000001.xml cannot be read as VOC"),
        (in_xml("<width>96", "<width>95"), "000001.jpg is 96 x 96 pixels, but its annotation says 95 x 96"),
        (in_xml("<annotation>", "<?xml version='1.0' encoding='klingon'?><annotation>"), "000001.xml cannot be read"),
        (lambda r: (r / "VOC2007/JPEGImages/000001.jpg").write_bytes(b""), "000001.jpg cannot be read: empty file"),
        (lambda r: (r / "VOC2007/ImageSets/Main/test.txt").write_text("100000\n100001\n100000\n"), "1 images more"),
        (lambda r: (r / "VOC2007/ImageSets/Main/test.txt").write_bytes("1\n".encode("utf-16")), "not a list of names"),
        (
            lambda r: [p.write_text(p.read_text().replace("cult>0", "cult>1")) for p in r.rglob("10000?.xml")],
            "test.txt lists images without a single object to find",
        ),
    ],
)
def test_what_is_missing_or_damaged_in_vocs_layout_is_named(voc, spoil, says):
    spoil(voc)
    with pytest.raises(UserError, match=says) as caught:
        read_sets(config_of(voc, "voc"))
    assert "\n" not in str(caught.value)


def in_annotations(change):
    return lambda root: change_coco(root, change)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: (r / "annotations/instances_val2017.json").unlink(), "instances_val2017.json does not exist"),
        (lambda r: (r / "annotations/instances_val2017.json").write_text("{"), "cannot be read as JSON"),
        (lambda r: (r / "annotations/instances_val2017.json").write_text("[]"), "holds a list"),
        (in_annotations(lambda c: c.pop("categories")), "train2017.json is no annotation .*'categories'"),
        (in_annotations(lambda c: c["annotations"][0].pop("bbox")), "is no annotation .*'bbox'"),
        (in_annotations(lambda c: c["annotations"][0].update(bbox=[1, 2])), "is no annotation"),
        (in_annotations(lambda c: c["annotations"][0].update(category_id=2)), "annotation 1 is of category 2"),
        (in_annotations(lambda c: c["annotations"][0].update(image_id=77)), "objects in image 77, which"),
        (in_annotations(lambda c: c.update(images=[], annotations=[])), "lists no images"),
        (in_annotations(lambda c: c.update(annotations=[])), "without a single object to learn from"),
        (in_annotations(lambda c: c["categories"][0].update(name="ring")), "only one of them has 1 disc, 1 ring"),
        (lambda r: shutil.rmtree(r / "train2017"), "train2017 does not exist"),
        (lambda r: next((r / "val2017").iterdir()).unlink(), "images of .*val2017.json are missing, 1 in all"),
        (lambda r: change_coco(r, lambda c: c.update(annotations=[]), "val2017"), "without a single object to find"),
        (lambda r: (r / "annotations/instances_val2017.json").write_text("[" * 10**5), "cannot be read as JSON"),
        (in_annotations(lambda c: [a.update(id=k % 2) for k, a in enumerate(c["annotations"])]), "ids in all: 0, 1$"),
        (in_annotations(lambda c: c["images"].append(c["images"][1])), "several images have the same id, 1 ids .*: 1$"),
        (in_annotations(lambda c: c["categories"].append(c["categories"][1])), "several categories have the same id"),
        (in_annotations(lambda c: c["images"][2].update(id=None)), "the id of number 2 of 'images' is null, neither"),
        (in_annotations(lambda c: c["images"][2].update(height=95)), "000002.jpg is 96 x 96 pixels, .* says 96 x 95"),
        (in_annotations(lambda c: c["images"][2].update(height=None)), "image 2 has the height null"),
        (in_annotations(lambda c: c["images"][2].update(file_name="")), 'image 2 has the file name ""'),
        (in_annotations(lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 4])), "1: its bbox is .1, 2, N"),
        (in_annotations(lambda c: c["annotations"][0].update(bbox=None)), "annotation 1: its bbox is null, not four"),
        (in_annotations(lambda c: c["annotations"][0].update(bbox=[10**400] * 4)), "annotation 1: its bbox is .*, not"),
        (in_annotations(lambda c: c["annotations"][0].update(iscrowd="0")), 'its iscrowd is "0", neither 0 nor 1'),
        (in_annotations(lambda c: c["annotations"].append(7)), "number [0-9]+ of 'annotations' is 7"),
        (lambda r: (r / "train2017/000000000003.jpg").write_bytes(b"no image"), "000003.jpg cannot be read: not an im"),
    ],
)
def test_what_is_missing_or_damaged_in_cocos_layout_is_named(coco, spoil, says):
    spoil(coco)
    with pytest.raises(UserError, match=says) as caught:
        read_sets(config_of(coco, "coco"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outline", "says"),
    [
        ({"size": [96, 81], "counts": [0, 96 * 81]}, "annotation 1 of image 0: its run lengths are of .* .96, 81."),
        ({"size": [80, 96], "counts": [0, 80 * 96]}, "but its image is .96, 80., width and height in the wrong order"),
        ({"size": [96, 80], "counts": [0, 96 * 80 - 1]}, "its run lengths make 7679 pixels, but its image has 7680"),
        ({"size": [96, 80], "counts": [7690, -10]}, "its run lengths are not whole numbers of 0 or more"),
        ({"size": [96, 80], "counts": "`"}, "its run lengths are cut off"),
        ({"size": [96, 80], "counts": "\u00e9"}, "its run lengths are not COCO's text"),
        ({"size": [96, 80], "counts": "0"}, "its run lengths make 0 pixels"),
        ([[1, 2, 3, 4, None, 6]], "its outline holds more than numbers"),
        ([[1, 2, 3, 4, 10**9, 6]], "its outline lies far outside the image's 80 x 96 pixels"),
    ],
)
def test_a_wrong_outline_is_refused_by_its_annotation(coco, outline, says):
    Image.new("RGB", (80, 96)).save(coco / "train2017/000000000000.jpg")
    first = {"segmentation": outline, "bbox": [1, 2, 30, 40]}
    change_coco(coco, lambda c: (c["images"][0].update(width=80), c["annotations"][0].update(first)))
    with pytest.raises(UserError, match=says) as caught:
        read_sets(config_of(coco, "coco", masks=True))
    assert "\n" not in str(caught.value)


def test_odd_but_clear_annotations_are_read_and_perfect_detections_score_all(voc, coco):
    """Ids of any kind or none, no areas, no crowds' marks, more objects of a class than COCO counts; for VOC sizes that
    are 0 or not there, boxes with fractions, other encodings, an object that is there twice."""
    _, shapes = draw(100_000)

    def odd(content):
        first = content["categories"][0]["id"]
        for number, found in enumerate(content["annotations"]):
            found.pop("area"), found.pop("iscrowd")
            found["id"] = number - 1 if number % 2 else f"n{number}"
        del content["annotations"][0]["id"]
        content["annotations"] += [{**content["annotations"][-1], "id": f"again {k}"} for k in range(130)]
        for entry in content["images"]:
            entry["id"] = str(entry["id"])
        for found in content["annotations"]:
            found["image_id"] = str(found["image_id"])
            found["category_id"] = found["category_id"] if found["category_id"] != first else ""
        content["categories"][0]["id"] = ""

    change_coco(coco, odd, "val2017")
    annotated = read_coco(coco, "val2017", masks=True)
    assert [image.id for image in annotated.images] == ["100000", "100001"] and not annotated.notes
    assert set(coco_metrics(annotated, perfect(annotated, masks=True), masks=True).values()) == {1.0}

    home, boxes = voc / "VOC2007/Annotations", [box(mask) for _, _, mask in shapes]
    plain = voc_xml(96, 96, [(CLASSES[kind], box(mask)) for kind, _, mask in shapes])
    twice = plain.replace("</annotation>", plain.partition("</size>")[2]).replace(">96<", ">0<", 2)
    (home / "100000.xml").write_bytes(f"<?xml version='1.0' encoding='utf-16'?>{twice}".encode("utf-16"))
    part = "<object><name>disc</name><difficult/><bndbox><xmin>3.5</xmin><ymin>2</ymin><xmax>9.25</xmax><ymax>8</ymax>"
    head = "<?xml version='1.0' encoding='latin-1'?><annotation><folder>é</folder>"
    other = f"{head}{part}</bndbox></object></annotation>"
    (home / "100001.xml").write_bytes(other.encode("latin-1"))
    annotated = read_voc(voc, "VOC2007/test", CLASSES)
    assert annotated.images[0].boxes.tolist() == [list(one) for one in boxes]
    assert annotated.images[1].boxes.tolist() == [[2.5, 1, 9.25, 8]]
    (note,) = annotated.notes
    assert note.startswith(f"left out: objects that are there twice, {len(shapes)}, the first in ")
    assert set(voc_metrics(annotated, perfect(annotated, masks=False)).values()) == {1.0}


def test_the_missing_package_is_named(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match="pip install -c constraints.txt pycocotools"):
        read_sets(config_of(coco, "coco"))


def test_a_damaged_image_or_one_of_another_size_is_named(voc):
    images = read_voc(voc, "VOC2007/trainval", CLASSES).images
    images[0].path.write_bytes(b"no image")
    Image.new("RGB", (40, 30)).save(images[1].path)
    for image, says in zip(images[:2], ("read: not an image", "is 40 x 30 pixels, but .*96 x 96"), strict=True):
        with pytest.raises(UserError, match=says):
            training_view(image, Views(), False, 0, 0, 0)


# Views


def test_a_view_shows_box_and_mask_where_the_object_is(sets):
    views = Views(train_sizes=(48, 120, 203), max_size=180)
    seen = set()
    for epoch in range(12):
        image = read_coco(sets / "coco", "train2017", masks=True).images[epoch % 6]
        pixels, target = training_view(image, views, True, 0, epoch, epoch % 6)
        side = pixels.shape[1]
        assert pixels.shape == (3, side, side) and side in (48, 120, 180) and pixels.dtype == torch.uint8
        flipped = not torch.allclose(target["boxes"], torch.from_numpy(image.boxes) * side / 96)
        seen.add((side, flipped))
        for bounds, mask in zip(target["boxes"], target["masks"], strict=True):
            columns, rows = mask.any(0).nonzero().flatten(), mask.any(1).nonzero().flatten()
            tight = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (bounds - tight).abs().max() <= 2.5 * max(1, side / 96)  # edges of polygons
        again = training_view(image, views, True, 0, epoch, epoch % 6)
        assert torch.equal(pixels, again[0]) and torch.equal(target["masks"], again[1]["masks"])
    assert len(seen) >= 4


def test_sizes_keep_the_form_and_the_longer_side_its_bound():
    assert fitted(375, 500, 800, 1333) == (800, 1067)
    assert fitted(500, 200, 800, 1333) == (1333, 533)
    assert fitted(3, 1000, 800, 1333) == (4, 1333)


def loader(annotated, rank: int = 0, world_size: int = 1, batch_size: int = 4) -> TrainingLoader:
    return TrainingLoader(annotated, Views(train_sizes=(32, 40)), False, batch_size, 0, rank, world_size, threads=2)


def test_what_a_step_gets_depends_neither_on_ranks_nor_on_the_start(sets):
    annotated = read_voc(sets / "voc", "VOC2007/trainval", CLASSES)
    whole = loader(annotated).batches()
    steps = [next(whole) for _ in range(4)]
    shares = [loader(annotated, rank, 2).batches(2) for rank in range(2)]
    for step in steps[2:]:
        images = [image for share in shares for image, _ in next(share)]
        assert all(torch.equal(a, b) for a, (b, _) in zip(images, step, strict=True))
    with pytest.raises(UserError, match="3 divides"):
        loader(annotated, 0, 3)
    with pytest.raises(UserError, match="lower the batch size"):
        loader(annotated, batch_size=8)
