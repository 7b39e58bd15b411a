"""Accuracy, F1 and confusion of predicted labels, computed by scikit-learn, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.errors import InputError
from ostinato.tasks.task import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Labels up to which the whole confusion table is shown.
SHOWN = 12


def label_metrics(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the labels that are among ``true`` or ``predicted``.

    Raises:
        InputError: scikit-learn isn't installed.
    """
    metrics = _sklearn()
    f1 = metrics.f1_score(true, predicted, average="macro", zero_division=0.0)
    return {"accuracy": float(metrics.accuracy_score(true, predicted)), "macro_f1": float(f1)}


def label_tables(
    true: NDArray[np.int64], predicted: NDArray[np.int64], labels: Sequence[str]
) -> list[Table]:
    """Precision, recall and F1 of each label, and which labels are taken for which.

    Up to 12 labels that is the confusion table, true labels by rows; of more, the labels that occur
    most and the confusions that do.

    Args:
        true: ``(N,)``, numbers of labels.
        predicted: ``(N,)``, likewise.
        labels: the labels' names.

    Raises:
        InputError: scikit-learn isn't installed.
    """
    metrics = _sklearn()
    numbers = np.arange(len(labels))
    scores = metrics.precision_recall_fscore_support(
        true, predicted, labels=numbers, zero_division=0.0
    )
    counts = metrics.confusion_matrix(true, predicted, labels=numbers)
    return [_scores_table(labels, *scores), _confusion_table(labels, counts)]


def _scores_table(
    labels: Sequence[str],
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    f1: NDArray[np.float64],
    support: NDArray[np.int64],
) -> Table:
    order = [int(i) for i in np.argsort(-support, kind="stable") if support[i]]
    title = "labels"
    if len(labels) <= SHOWN:
        order = list(range(len(labels)))
    elif len(order) > SHOWN:
        title = f"the {SHOWN} most frequent of {len(order)} labels"
    rows = [
        [labels[i], f"{precision[i]:.3f}", f"{recall[i]:.3f}", f"{f1[i]:.3f}", str(support[i])]
        for i in order[:SHOWN]
    ]
    return Table(title, ["label", "precision", "recall", "F1", "examples"], rows)


def _confusion_table(labels: Sequence[str], counts: NDArray[np.int64]) -> Table:
    if len(labels) <= SHOWN:
        rows = [[name, *map(str, row)] for name, row in zip(labels, counts.tolist(), strict=True)]
        return Table("confusion: true label by rows, predicted by columns", ["", *labels], rows)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    most = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    places = [divmod(int(place), len(labels)) for place in most]
    rows = [
        [labels[i], labels[j], str(wrong[i, j]), f"{wrong[i, j] / counts[i].sum():.1%}"]
        for i, j in places
        if wrong[i, j]
    ]
    columns = ["true", "predicted", "times", "of the true label"]
    return Table("the most frequent confusions", columns, rows)


def _sklearn() -> Any:
    try:
        import sklearn.metrics
    except ImportError as error:
        raise InputError(
            "metrics need scikit-learn, which isn't installed: pip install 'ostinato[train]'"
        ) from error
    return sklearn.metrics
