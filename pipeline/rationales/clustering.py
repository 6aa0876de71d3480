"""Clusters unlabelled rationales by style of reasoning instead of topic.

Method: TF-IDF of words and punctuation, projected to 50 dimensions; the mean over the rationales of the same question is subtracted from
each rationale; k-means on the result. The mean carries the topic, so the remainder carries the style. A question with one rationale has no
remainder, so several rationales per question are needed. Clusters are numbered by size. Our choice; scikit-learn does the computation.

Axes: B rationales, W words, D projected dimensions, Q questions of the set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.errors import QuestionError

_DIMENSIONS: Final = 50
_LEARNED_FROM: Final = 20_000


def _words(text: str) -> str:
    return re.sub(r"\d", "0", text.casefold())


def clusters(texts: Sequence[str], questions: Sequence[int], count: int, seed: int) -> list[int]:
    """The cluster of each text, numbered from 0 by descending size; `questions[i]` is the question number of text i.

    The vocabulary, the projection and k-means are fitted to the first 20,000 texts.

    Raises:
        QuestionError: the texts cannot be split into `count` clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    learned = texts[:_LEARNED_FROM]
    words = TfidfVectorizer(preprocessor=_words, token_pattern=r"\w+|[^\w\s]", sublinear_tf=True, max_features=20_000)
    try:
        counted_BW = words.fit_transform(learned)
        narrow = TruncatedSVD(min(_DIMENSIONS, counted_BW.shape[1]), random_state=seed).fit(counted_BW)
        found_BD = _without_topic(narrow.transform(words.transform(texts)), np.asarray(questions))
        labels_B = KMeans(count, n_init=10, random_state=seed).fit(found_BD[:_LEARNED_FROM]).predict(found_BD)
    except ValueError as error:
        raise QuestionError(
            f"sampling.rationales: cannot cluster {len(texts)} rationales into {count} clusters ({error}); lower places, or set "
            "unlabelled to numbered"
        ) from error
    order = np.argsort(-np.bincount(labels_B, minlength=count), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(count)
    return [int(place[label]) for label in labels_B]


def _without_topic(found_BD: Any, questions_B: Any) -> Any:
    """Subtracts from each row the mean over the rows of its question."""
    _, number_B, counts_Q = np.unique(questions_B, return_inverse=True, return_counts=True)
    sums_QD = np.zeros((len(counts_Q), found_BD.shape[1]))
    np.add.at(sums_QD, number_B, found_BD)
    return found_BD - (sums_QD / counts_Q[:, None])[number_B]
