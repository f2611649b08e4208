"""In a world whose best policy is known, DRN finds it.

Users of a group like the same topics, which never change; news are of one topic, stay, and are equally good; nobody is
bored, and content users only come sooner. So what is shown changes no later click, and the best is what is most likely
to be clicked now: a candidate of the topic that the group likes most of those that are there.
"""

from pathlib import Path

import numpy as np

from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.simulation.episode import Episode
from shardrec.trainer.simulation.run_file import SimulationConfig
from shardrec.trainer.simulation.value_net import ValueNet

SETTINGS = {
    "users": 120,
    "days": 4,
    "candidates": 6,
    "shown": 1,
    "tick_minutes": 60,
    "minor_minutes": 60,
    "news": {"per_day": 0, "lasting": 15, "topics": 5, "publishers": 1, "mix": 0, "quality": 0, "publisher_quality": 0},
    "tastes": {"groups": 3, "strength": 1.5, "difference": 0, "drift": 0, "segment_noise": 0},
    "clicks": {"bias": -0.5, "age": 0, "boredom": 0},
    "exploration": {"duel": {"tau": 2}},
    "returns": {"hazard": 1.5e-4, "diversity": 0},
}


def test_drn_finds_the_best_policy(tmp_path: Path) -> None:
    config = SimulationConfig.model_validate(
        {
            "run": str(tmp_path / "run"),
            "simulation": SETTINGS,
            "model": {
                "name": "drn",
                "state": ["segment"],
                "action": ["topic"],
                "embedding_dim": 4,
                "mlp": {"hidden": [16]},
                "rewards": {"click": 1.0, "activeness": 0.05},
            },
            "data": {"global_batch_size": 128},
            "optimizer": {"tables": {"learning_rate": 0.1}, "tower": {"learning_rate": 0.01}},
            "trainer": {"epochs": 3, "tensorboard": False},
            "launch": {"threads": 1},
        }
    )
    episode = Episode(config, "drn", 1)
    episode.run()
    folder = Path(episode.folder) / "policy" / f"major-{episode.day}"
    world, net = episode.world, ValueNet(RunFolder(folder))
    found = best = drawn = 0.0
    for tick in range(24 * episode.day, 24 * (episode.day + 1)):
        requests = world.requests(tick)
        probability = world.click_probability(requests)
        (values,) = net.values(requests)
        found += probability[np.arange(len(values)), values.argmax(1)].sum()
        best += probability.max(1).sum()
        drawn += probability.mean(1).sum()
    assert drawn < 0.6 * best  # what is shown matters
    assert found > 0.99 * best
