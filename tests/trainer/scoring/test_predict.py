"""What `predict --explain` writes of each kind of explanation."""

import numpy as np
import torch

from shardrec.models.base import Explanation
from shardrec.models.inputs import Jagged
from shardrec.trainer.scoring.predict import explained
from tests.models.cases import histories_batch, histories_schema


def test_weights_of_events_lie_beside_their_ids() -> None:
    batch = histories_batch(histories_schema(), 5, padding=2)
    ids = batch.ids["item_history"]
    weights = torch.rand(len(ids.values()))
    found = explained(Explanation(Jagged(weights, ids.lengths(), ids.offsets()), ("item_history",)), batch)
    assert len(found["weights"]) == len(found["weights_of"]) == 5
    offsets = ids.offsets().tolist()
    for b in range(5):
        part = slice(offsets[b], offsets[b + 1])
        assert found["weights_of"][b].as_py() == ids.values()[part].tolist()
        np.testing.assert_array_equal(found["weights"][b].values.to_numpy(), weights[part].numpy())
    assert found["weights"][0].as_py() == [] and len(found["weights"][1]) == 6


def test_weights_of_named_parts_lie_beside_their_names() -> None:
    batch = histories_batch(histories_schema(), 3, padding=2)
    found = explained(Explanation(torch.arange(10.0).view(5, 2), ("one", "other")), batch)
    assert found["weights"].to_pylist() == [[0, 1], [2, 3], [4, 5]]
    assert found["weights_of"].to_pylist() == [["one", "other"]] * 3
