import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from fastintl.evaluate import knn, nearest_cpu
from loaders.errors import UserError


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
    monkeypatch.setattr(nearest_cpu, "_QUERY_TILE", 64)
    monkeypatch.setattr(nearest_cpu, "_FEATURE_TILE", 101)
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
