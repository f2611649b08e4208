"""LinUCB scores a candidate by a linear model of its features, and adds a bonus for what it knows little of.

Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation" (WWW 2010), with one model for all
news, which come and go: score = x . theta + alpha sqrt(x A^-1 x), A = ridge I + sum of x x^T over what was shown,
theta = A^-1 b, b = sum of x over what was clicked.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature
from shardrec.trainer.simulation.log_schema import ACTION_IDS, ACTION_NUMBERS
from shardrec.trainer.simulation.policies import Fixed, PolicyContext, best
from shardrec.trainer.simulation.world import Requests, Shown

MOST_IDS = 256
"""Ids of a feature that the model reads one by one; features of more, such as the news themselves, are left out."""


class LinUCB(Fixed):
    """LinUCB reads what describes a candidate, and it and the user together: numbers as they are, few ids one by one.

    precision: A [D, D]; clicked: b [D]; the first of the D features is always 1.
    """

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        of_candidate = [context.schema[name] for name in (*ACTION_IDS, *ACTION_NUMBERS)]
        self.numbers = [f.name for f in of_candidate if isinstance(f, DenseFeature)]
        self.ids = {
            f.name: f.num_embeddings for f in of_candidate if isinstance(f, IdFeature) and f.num_embeddings <= MOST_IDS
        }
        width = 1 + len(self.numbers) + sum(self.ids.values())
        self.precision = self.settings.linucb.ridge * np.eye(width)
        self.clicked = np.zeros(width)

    def choose(self, requests: Requests) -> Shown:
        """Returns the candidates of the highest upper bounds; equal ones in a drawn order."""
        covariance = np.linalg.inv(self.precision)
        x = self.features(requests.actions)
        bound = x @ (covariance @ self.clicked)
        bound += self.settings.linucb.alpha * np.sqrt(np.maximum(((x @ covariance) * x).sum(-1), 0.0))
        return best(bound, self.settings.shown, self.draw(requests).random(bound.shape))

    def learn(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Adds what was shown to A, what was clicked to b."""
        taken = {n: np.take_along_axis(values, shown.place, axis=1) for n, values in requests.actions.items()}
        x = self.features(taken).reshape(-1, len(self.clicked))
        self.precision += x.T @ x
        self.clicked += x[clicks.ravel()].sum(0)

    def features(self, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what the model reads of candidates: [..., D]."""
        shape = actions["news"].shape
        x = np.zeros((*shape, len(self.clicked)))
        x[..., 0] = 1.0
        for column, name in enumerate(self.numbers, start=1):
            x[..., column] = actions[name]
        start = 1 + len(self.numbers)
        for name, count in self.ids.items():
            np.put_along_axis(x, start + actions[name][..., None], 1.0, axis=-1)
            start += count
        return x

    def save(self, folder: Path) -> None:
        """Writes A and b."""
        np.savez(folder / "linear.npz", precision=self.precision, clicked=self.clicked)

    def load(self, folder: Path) -> None:
        """Takes up A and b."""
        with np.load(folder / "linear.npz") as kept:
            self.precision, self.clicked = kept["precision"], kept["clicked"]
