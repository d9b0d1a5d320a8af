import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from fastintl.distributed import World
from fastintl.evaluate.nearest import cpu, float64, knn
from loaders.errors import UserError
from tests.helpers.ddp import run_ranks

CPU = torch.device("cpu")


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 24))
    labels, query_labels = rng.integers(0, 7, 900), rng.integers(0, 7, 300)
    features = centres[labels] + 1.5 * rng.normal(size=(900, 24))
    queries = centres[query_labels] + 1.5 * rng.normal(size=(300, 24))
    return features.astype(np.float32), labels * 3 - 5, queries.astype(np.float32), query_labels * 3 - 5


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_scikit_learn(clusters, metric, k):
    features, labels, queries, query_labels = clusters
    theirs = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(features, labels)
    ours = knn.predict(features, labels, queries, k, metric)
    assert (ours == theirs.predict(queries)).all() and ours.dtype == labels.dtype
    expected = theirs.score(queries, query_labels)
    assert knn.accuracy(features, labels, queries, query_labels, k=k, metric=metric) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_blocks_do_not_matter(clusters, metric, monkeypatch):
    features, labels, queries, _ = clusters
    whole = knn.predict(features, labels, queries, 120, metric)  # k beyond a block
    monkeypatch.setattr(knn, "_LEAST_MEMORY", 0)
    monkeypatch.setattr(cpu, "_QUERY_TILE", 64)
    monkeypatch.setattr(cpu, "_FEATURE_TILE", 101)
    assert (knn.predict(features, labels, queries, 120, metric, memory=1e6) == whole).all()


@pytest.mark.parametrize("k", [5, 200])
def test_weighted_vote_is_the_formula(clusters, k):
    features, labels, queries, _ = clusters
    f = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    q = queries.astype(float) / np.linalg.norm(queries.astype(float), axis=1, keepdims=True)
    similarity = q @ f.T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    classes = np.unique(labels)
    weights = np.exp(np.take_along_axis(similarity, nearest, 1) / 0.07)
    votes = np.stack([(weights * (labels[nearest] == c)).sum(1) for c in classes], 1)
    ours = knn.predict(features, labels, queries, k, "cosine", "weighted")
    assert (ours == classes[votes.argmax(1)]).all()


@pytest.mark.parametrize("offset", [0, 1e3])
def test_far_from_the_origin(clusters, offset):
    """Float32 products of vectors with a large common part would lose the distances."""
    features, labels, queries, _ = clusters
    features, queries = features + np.float32(offset), queries + np.float32(offset)
    distance = np.linalg.norm(queries[:, None].astype(float) - features[None].astype(float), axis=2)
    nearest = labels[distance.argmin(1)]
    assert (knn.predict(features, labels, queries, 1) == nearest).all()


def test_ties():
    features = np.array([[0.0, 1], [1, 0], [0, -1], [-1, 0], [5, 5]], np.float32)
    origin = np.zeros((1, 2), np.float32)
    assert knn.predict(features, np.array([3, 1, 2, 0, 9]), origin, 1) == [3]  # equal distances: first index
    assert knn.predict(features, np.array([3, 1, 2, 0, 9]), origin, 4) == [0]  # equal votes: smallest label
    assert knn.predict(features, np.array([3, 1, 1, 3, 9]), origin, 3) == [1]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_duplicates_keep_their_order(metric):
    """Every query is a feature that is there four times with different labels: the first copies are found."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=(200, 33)).astype(np.float32) + 3
    features, labels = np.concatenate([once] * 4), np.arange(800)
    assert (knn.predict(features, labels, once, 1, metric) == np.arange(200)).all()
    assert (knn.predict(features, labels // 200 % 3, once, 3, metric) == 0).all()


def test_collapsed_features():
    features = np.full((50, 8), 0.3, np.float32)
    labels = np.arange(50) % 4
    assert (knn.predict(features, labels, features[:9], 1) == 0).all()
    assert (knn.predict(features, labels, features[:9], 4, "cosine", "weighted") == 0).all()
    assert (knn.predict(features * 0, labels, features[:9] * 0, 5, "cosine") == 0).all()


def test_kind_of_the_answer(clusters):
    features, labels, queries, query_labels = clusters
    numpy = knn.predict(features, labels.astype(np.int16), queries)
    assert isinstance(numpy, np.ndarray) and numpy.dtype == np.int16
    tensor = knn.predict(torch.tensor(features), torch.tensor(labels), torch.tensor(queries))
    assert isinstance(tensor, torch.Tensor) and (tensor.numpy() == numpy).all()
    assert len(knn.predict(features, labels, queries[:0])) == 0
    half = knn.predict(torch.tensor(features).half(), torch.tensor(labels), torch.tensor(queries).half())
    assert (half == tensor).float().mean() > 0.95


@pytest.mark.parametrize(
    "change, says",
    [
        ({"k": 0}, "k is 0"),
        ({"k": 901}, "901"),
        ({"metric": "l2"}, "l2"),
        ({"vote": "borda"}, "borda"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"queries": np.zeros((3, 5), np.float32)}, "queries"),
        ({"queries": np.full((3, 24), np.nan, np.float32)}, "diverged"),
    ],
)
def test_wrong_input_is_named(clusters, change, says):
    features, labels, queries, _ = clusters
    with pytest.raises(UserError, match=says):
        knn.predict(**{"features": features, "labels": labels, "queries": queries, **change})


def by_definition(features, queries, k, metric):
    """Every distance in float64, rounded to float32, by a stable sort: indices (Q, k)."""
    features, queries = features.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
        queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-300)
    square = np.square(queries[:, None] - features[None]).sum(2)
    square[square < 1e-20] = 0
    return np.argsort(square.astype(np.float32), axis=1, kind="stable")[:, :k]


def degenerate():
    """Features and queries with ties, duplicates and scales on which float32 products alone would go wrong."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(30, 12))
    far = 1e3 * rng.integers(0, 4, (800, 1))
    return {
        "ties on a grid": (rng.integers(0, 3, (800, 4)), rng.integers(0, 3, (60, 4))),
        "three of each": (np.concatenate([few] * 3), few),
        "fifty of each": (np.concatenate([few] * 50), few),
        "all equal": (np.ones((300, 6)), np.ones((20, 6))),
        "all zero": (np.zeros((300, 6)), np.zeros((20, 6))),
        "far from the origin": (rng.normal(size=(800, 12)) + 1e3, rng.normal(size=(40, 12)) + 1e3),
        "clusters far apart": (rng.normal(size=(800, 12)) + far, rng.normal(size=(40, 12)) + far[:40]),
        "an outlier": (np.concatenate([rng.normal(size=(500, 9)), np.full((1, 9), 1e6)]), rng.normal(size=(40, 9))),
        "one feature": (few[:1], few),
        "one channel": (rng.normal(size=(500, 1)), rng.normal(size=(40, 1))),
        "many channels": (rng.normal(size=(300, 5000)), rng.normal(size=(9, 5000))),
        "rectified": (np.maximum(rng.normal(size=(800, 40)), 0), np.maximum(rng.normal(size=(40, 40)), 0)),
    }


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", degenerate())
def test_neighbours_are_those_of_the_definition(name, metric):
    features, queries = (x.astype(np.float32) for x in degenerate()[name])
    for k in sorted({1, min(7, len(features)), len(features)}):
        expected = by_definition(features, queries, k, metric)
        assert (cpu.nearest(features, queries, k, metric, 1e8)[1] == expected).all()
        blocked = float64.nearest(torch.tensor(features), queries, k, metric, 1e6, CPU)[1]
        assert (blocked.numpy() == expected).all()


@pytest.mark.parametrize("where", ["features", "queries"])
def test_no_neighbours_among_numbers_that_are_none(where):
    arrays = {"features": np.ones((700, 3), np.float32), "queries": np.ones((600, 3), np.float32)}
    arrays[where][-1, 1] = np.inf
    with pytest.raises(UserError, match=f"the {where} hold NaN or infinite values"):
        float64.nearest(*arrays.values(), 1, "euclidean", 1e6, CPU)


def test_the_host_makes_no_float64_copy_of_what_a_device_searches(tmp_path):
    """NumPy's memory, which tracemalloc sees, stays below one block of features; torch's is the device's."""
    features = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, (4000, 300))
    features[:] = np.random.default_rng(0).normal(size=features.shape)
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    queries = np.array(features[:20])
    tracemalloc.start()
    found = float64.nearest(features, queries, 3, "euclidean", 1e9, CPU)[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.numpy() == by_definition(features, queries, 3, "euclidean")).all()
    assert peak < features.nbytes / 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", degenerate())
def test_neighbours_on_a_gpu_are_those_of_the_definition(name, metric):
    features, queries = (x.astype(np.float32) for x in degenerate()[name])
    k = min(7, len(features))
    expected, labels = by_definition(features, queries, k, metric), np.arange(len(features))
    found = float64.nearest(features, queries, k, metric, 1e6, torch.device("cuda"))[1]
    assert (found.cpu().numpy() == expected).all()
    assert (knn.predict(features, labels, queries, 1, metric, device="cuda") == expected[:, 0]).all()


@pytest.mark.parametrize("name", ["three of each", "fifty of each", "all equal", "clusters far apart", "one channel"])
@pytest.mark.parametrize("k", [1, 3, "all"])
def test_degenerate_data_agrees_with_scikit_learn(name, k):
    """Where scikit-learn's answer depends on no tie: copies share their label, and all features may vote."""
    features, queries = (x.astype(np.float64) for x in degenerate()[name])
    labels = np.unique(features, axis=0, return_inverse=True)[1].reshape(-1) % 5
    k = len(features) if k == "all" else k
    theirs = KNeighborsClassifier(k, algorithm="brute").fit(features, labels)
    assert (knn.predict(features, labels, queries, k) == theirs.predict(queries)).all()


def test_one_class():
    features = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for k in (1, 50):
        assert (knn.predict(features, np.full(50, 7), features, k) == 7).all()


@pytest.mark.parametrize("vote", ["majority", "weighted"])
def test_several_k_are_those_one_by_one(clusters, vote):
    features, labels, queries, query_labels = clusters
    several = knn.predict(features, labels, queries, [20, 1, 5, 200], "cosine", vote)
    assert list(several) == [1, 5, 20, 200]
    for k, found in several.items():
        assert (found == knn.predict(features, labels, queries, k, "cosine", vote)).all()
    for ks in (np.array([5, 1]), {1, 5}, (1, 5)):
        assert list(knn.predict(features, labels, queries, ks)) == [1, 5]
    scores = knn.accuracy(features, labels, queries, query_labels, k=[1, 5])
    assert scores == knn.accuracy(features, labels, queries, query_labels, k=np.array([5, 1]))
    assert scores[5] == knn.accuracy(features, labels, queries, query_labels, k=5)


SHARED_KS = [1, 5, 20, 200]


def _on_a_rank(path: str) -> list:
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = World(rank, world_size, rank, torch.device("cpu"))
    features, labels, queries, query_labels = (torch.from_numpy(np.load(f"{path}/{i}.npy")) for i in range(4))
    found = []
    for metric, vote in (("euclidean", "majority"), ("cosine", "weighted")):
        options = {"metric": metric, "vote": vote, "world": world}
        columns = labels, queries, query_labels, SHARED_KS
        found.append(knn.accuracy(features, *columns, **options))
        found.append(knn.accuracy(features.numpy(), *(c.numpy() for c in columns[:3]), SHARED_KS, **options))
        strided = torch.arange(rank, len(features), world_size)
        found.append(knn.accuracy(features[strided], *columns, mine=strided, **options))
        few = torch.arange(150) if rank == 0 else torch.arange(150, len(features))  # fewer than vote
        found.append(knn.accuracy(features[few], *columns, mine=few, **options))
        none = torch.arange(len(features)) if rank == 0 else torch.arange(0)
        found.append(knn.accuracy(features[none], *columns, mine=none, **options))
    with pytest.raises(UserError, match="k is 1801"):
        knn.accuracy(features, labels, queries, query_labels, 1801, world=world)
    return found


def test_ranks_that_share_the_features_answer_as_one(clusters, tmp_path):
    features, labels, queries, query_labels = clusters
    features = np.concatenate([features, features[::-1]])  # equal distances, between the ranks too
    labels = np.concatenate([labels, labels[::-1] + 1])
    for i, column in enumerate((features, labels, queries, query_labels)):
        np.save(tmp_path / f"{i}.npy", column)
    settings = (("euclidean", "majority"), ("cosine", "weighted"))
    alone = [knn.accuracy(features, labels, queries, query_labels, SHARED_KS, *setting) for setting in settings]
    assert alone[0] != alone[1]
    for found in run_ranks(_on_a_rank, str(tmp_path)):
        assert found == [alone[0]] * 5 + [alone[1]] * 5


def test_the_screening_is_what_answers(clusters, monkeypatch):
    """Ordinary features are proven without a float64 product; what is left over is not."""
    features, labels, queries, _ = clusters
    monkeypatch.setattr(float64, "nearest", None)
    knn.predict(features, labels, queries, [5, 200])
    with pytest.raises(TypeError):
        knn.predict(features * 0, labels, queries, 5)


def test_products_of_lower_precision_elsewhere_do_not_matter(clusters):
    features, labels, queries, _ = clusters
    expected, threads = knn.predict(features, labels, queries, 1), torch.get_num_threads()
    torch.set_float32_matmul_precision("medium")
    try:
        assert (knn.predict(features, labels, queries, 1) == expected).all()
        assert torch.get_float32_matmul_precision() == "medium" and torch.get_num_threads() == threads
    finally:
        torch.set_float32_matmul_precision("highest")


def test_memory_stays_within_the_budget(tmp_path):
    """10^5 features of 512 channels, mapped from a file that is twice the budget."""
    rng = np.random.default_rng(0)
    features = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, (100_000, 512))
    rng.standard_normal(out=features, dtype=np.float32)
    features.flush()
    program = """if 1:
        import sys, numpy as np
        from fastintl.evaluate.nearest import knn

        def anonymous_peak():
            with open("/proc/self/status") as file:
                return sum(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

        import threading
        features = np.load(sys.argv[1], mmap_mode="r")
        labels = np.arange(len(features)) % 10
        knn.predict(np.array(features[:100]), labels[:100], features[:5], 5)
        before, peak, done = anonymous_peak(), 0, threading.Event()

        def watch():
            global peak
            while not done.wait(0.002):
                peak = max(peak, anonymous_peak())

        watcher = threading.Thread(target=watch)
        watcher.start()
        found = knn.predict(features, labels, features[:400], 1, memory=1e8)
        done.set()
        watcher.join()
        assert (found == labels[:400]).all()
        print(peak - before)
    """
    words = [sys.executable, "-c", program, tmp_path / "features.npy"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert 1e6 < int(run.stdout) < 1.2e8
