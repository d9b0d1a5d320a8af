"""The same images in every layout that is read: class folders, shards, a tar of tars, parquet."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from tests.helpers.images import write_image


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def class_folders(root: Path, images: int = 40, classes: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
    """``root/<class>/<number>.jpg``, of several sizes."""
    for i in range(images):
        write_image(root / classes[i % len(classes)] / f"{i:04d}.jpg", 30 + i, 70 - i, i)
    return root


def files_of(root: Path) -> dict[str, bytes]:
    """The images of class folders by name, in order."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("*/*"))}


def write_shards(folder: Path, files: dict[str, bytes], shards: int = 3, labels: str = "cls") -> Path:
    """WebDataset's shards, the images dealt out; ``labels`` is ``cls``, ``json``, or empty for none."""
    classes = sorted({name.split("/")[0] for name in files})
    for shard in range(shards):
        members = {}
        for name in list(files)[shard::shards]:
            label, stem = classes.index(name.split("/")[0]), name.rpartition(".")[0]
            members[name] = files[name]
            if labels == "cls":
                members[f"{stem}.cls"] = str(label).encode()
            elif labels == "json":
                members[f"{stem}.json"] = json.dumps({"label": label, "width": 3}).encode()
        write_tar(folder / f"shard-{shard:06d}.tar", members)
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
    return folder


def write_tar_of_tars(path: Path, files: dict[str, bytes]) -> Path:
    inner: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        folder, _, base = name.partition("/")
        inner.setdefault(folder, {})[base] = data
    packed = {}
    for name in reversed(list(inner)):
        packed[f"{name}.tar"] = write_tar(path.with_suffix(".inner"), inner[name]).read_bytes()
        path.with_suffix(".inner").unlink()
    return write_tar(path, packed)


def write_devkit(root: Path, number_of_class: dict[str, int], of_images: list[int]) -> None:
    """``ILSVRC2012_devkit_t12.tar.gz``: the number of each class, and of the class of each validation image."""
    from scipy import io as matlab

    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = [(number, name, "", "", 0) for name, number in number_of_class.items()] + [(9999, "n0", "", "", 2)]
    matlab.savemat(root / "meta.mat", {"synsets": np.array(rows, fields)[:, None]})
    (root / "truth.txt").write_text("".join(f"{number}\n" for number in of_images))
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(root / "meta.mat", "ILSVRC2012_devkit_t12/data/meta.mat")
        tar.add(root / "truth.txt", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")


def write_parquet(path: Path, files: dict[str, bytes], rows_a_group: int = 7) -> Path:
    import pyarrow
    import pyarrow.parquet

    classes = sorted({name.split("/")[0] for name in files})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": classes}}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", image), ("label", pyarrow.int64())],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    columns = {
        "image": [{"bytes": data, "path": name} for name, data in files.items()],
        "label": [classes.index(name.split("/")[0]) for name in files],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), path, row_group_size=rows_a_group)
    return path
