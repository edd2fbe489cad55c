"""The figures of card clip the slow way: every score of every pair, sorted in Python.

Features of the tests are small whole numbers, so that scores are exact in any arithmetic and many of them tie.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

Rows = list[list[float]]


def best_first(query: list[float], candidates: Rows) -> list[int]:
    """All candidates, best first; equal ones in the order of their numbers."""
    scores = [sum(a * b for a, b in zip(query, one, strict=True)) for one in candidates]
    return sorted(range(len(candidates)), key=lambda number: (-scores[number], number))


def caption_ranks(image: Rows, text: Rows, owner: list[int]) -> list[int]:
    """0-based rank of every caption's picture among the pictures."""
    return [best_first(one, image).index(own) for one, own in zip(text, owner, strict=True)]


def picture_ranks(image: Rows, text: Rows, owner: list[int]) -> list[int]:
    """0-based rank of every picture's best caption among the captions; their number for a picture without one."""
    found = []
    for number, one in enumerate(image):
        order = best_first(one, text)
        found.append(
            min((order.index(caption) for caption, own in enumerate(owner) if own == number), default=len(text))
        )
    return found


def summary(ranks: list[int], name: str, num_candidates: int) -> dict[str, float]:
    return {
        **{f"{name}_R@{k}": sum(rank in range(num_candidates)[:k] for rank in ranks) / len(ranks) for k in (1, 5, 10)},
        f"{name}_mean_rank": sum(ranks) / len(ranks) + 1,
        f"{name}_median_rank": math.floor(statistics.median(ranks)) + 1,
    }


def retrieval(image: Rows, text: Rows, owner: list[int]) -> dict[str, float]:
    """What `retrieval_metrics` gives."""
    both = summary(picture_ranks(image, text, owner), "image_to_text", len(text))
    return both | summary(caption_ranks(image, text, owner), "text_to_image", len(image))


def multi_caption(image: Rows, text: Rows, owner: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    """What `multi_caption_recall` gives, by the card's words: own picture, or any own caption, in the top k."""
    found = {}
    for k in ks:
        pictures = [own in best_first(one, image)[:k] for one, own in zip(text, owner, strict=True)]
        captions = [
            any(owner[caption] == number for caption in best_first(one, text)[:k]) for number, one in enumerate(image)
        ]
        found[f"image_retrieval_recall@{k}"] = statistics.fmean(pictures)
        found[f"text_retrieval_recall@{k}"] = statistics.fmean(captions)
    return found


def zero_shot(image: Rows, classes: Rows, label: list[int]) -> dict[str, float]:
    """What `ZeroShotEvaluator` gives; `classes` are feature rows, one per class."""
    ranks = [best_first(one, classes).index(own) for one, own in zip(image, label, strict=True)]
    return {f"zero_shot_top{k}": sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5)}


def whole_numbers(draw: np.random.Generator, count: int, width: int) -> Rows:
    """Features: `count` rows of whole numbers from -2 to 2."""
    return draw.integers(-2, 3, (count, width)).astype(float).tolist()
