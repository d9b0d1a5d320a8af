"""Logistic regression by L-BFGS from scikit-learn: a second opinion on features within seconds."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch

from fastintl.evaluate.accuracy import Accuracy, best
from fastintl.evaluate.features import Features
from fastintl.evaluate.labels import check_labels
from loaders.errors import UserError


def logistic_probe(train: Features, held_out: Features, classes: int) -> dict[str, float]:
    """Fits multinomial logistic regression to standardised features and tests it.

    The penalty is ``||W||^2 / 2`` beside the sum of the losses (scikit-learn's C = 1).

    Args:
        train, held_out: features (n, d) and labels in ``0 .. classes - 1``.

    Returns:
        ``{"top1": …, "top5": …}`` as fractions. A class without training image is never named.

    Raises:
        UserError: scikit-learn is not installed, labels that are no classes, or one class only.
    """
    require_scikit_learn()
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    check_labels(train.labels, classes, "the training set")
    check_labels(held_out.labels, classes, "the held-out set")
    if len(train.labels.unique()) < 2:
        raise UserError("the training set has images of one class only, and there is nothing to tell apart")
    scaler = StandardScaler().fit(train.features.numpy())
    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000)
    model.fit(scaler.transform(train.features.numpy()), train.labels.numpy())
    decision = model.decision_function(scaler.transform(held_out.features.numpy()))
    if decision.ndim == 1:  # where there are two classes, scikit-learn gives the second one's alone
        decision = np.stack([-decision, decision], 1)
    scores = torch.full((1, classes, len(decision)), -torch.inf)
    scores[0, model.classes_] = torch.from_numpy(decision.T.astype(np.float32))
    counted = Accuracy(1)
    counted.add(scores, held_out.labels)
    return best(counted.top())


def require_scikit_learn() -> None:
    """Raises ``UserError`` where it is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("the quick probe needs scikit-learn: pip install -c constraints.txt scikit-learn")
