"""Epsilon-greedy lists: each place has the best candidate that is left or, with probability epsilon, any of those."""

import numpy as np

from shardrec.trainer.simulation.draws import drawn
from shardrec.trainer.simulation.world import Shown


def epsilon_greedy(scores: np.ndarray, length: int, epsilon: float, draw: np.random.Generator) -> Shown:
    """Shows `length` of the candidates with scores [R, C]; epsilon 1 shows them in an order drawn from all.

    Given those above it, a candidate's probability at a place is epsilon / (how many are left), and 1 - epsilon more
    for the best of them; of equal scores the first is best.
    """
    requests, count = scores.shape
    rows = np.arange(requests)
    place, propensity = np.empty((requests, length), np.int64), np.empty((requests, length))
    points, left, scores = draw.random((length, requests)), np.ones(scores.shape), scores.astype(np.float64)
    for slot in range(length):
        chances = epsilon / (count - slot) * left
        chances[rows, scores.argmax(1)] += 1 - epsilon
        place[:, slot] = drawn(chances, points[slot])
        propensity[:, slot] = chances[rows, place[:, slot]]
        left[rows, place[:, slot]] = 0.0
        scores[rows, place[:, slot]] = -np.inf
    return Shown(place, propensity)
