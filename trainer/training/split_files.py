"""A checkpoint knows the files of all splits: a run goes on with the same ones, in the same order, or not at all."""

from collections.abc import Mapping
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import SPLITS
from shardrec.trainer.session.session import Session

FINGERPRINTS = "splits"
"""The key beside `Loader.order_state` under which a checkpoint has the other splits' fingerprints, by split."""


def other_fingerprints(session: Session) -> dict[str, str]:
    """Returns the fingerprints of the splits that are not trained on. All workers call it alike."""
    others = {name: session.config.data.split(name) for name in SPLITS if name != "train"}
    return {
        name: session.blueprint.share_footers(paths, session.environment).fingerprint.value
        for name, paths in others.items()
        if paths is not None
    }


def take_up_files(session: Session, saved: Mapping[str, Any]) -> bool:
    """Takes the files of all splits in the order in which a checkpoint has them; tells whether that is another one.

    saved: what the checkpoint says of the order of rows. Earlier versions read files in the order of their names as
    plain strings, and kept a fingerprint of the training rows alone: the other splits are then read in that order too.
    A split that is new, or no longer there, is not compared. All workers call it alike.

    Raises UserError where the files of another split than the training rows have changed (`Loader.check_state` looks at
    those).
    """
    data, blueprint, environment = session.config.data, session.blueprint, session.environment
    train = data.split("train")
    assert train is not None
    reordered = blueprint.take_up_files(train, environment, saved.get("fingerprint"))
    others = saved.get(FINGERPRINTS)
    for name, paths in ((name, data.split(name)) for name in SPLITS if name != "train"):
        known = others.get(name) if isinstance(others, dict) else None
        if paths is None:
            continue
        if FINGERPRINTS not in saved and reordered:
            blueprint.read_by_name(paths, environment)
        elif known is not None:
            reordered |= blueprint.take_up_files(paths, environment, known)
            index = blueprint.share_footers(paths, environment)
            if not index.fingerprint.matches(known):
                raise UserError(
                    f"the {name} rows under {index.files[0].path} are not those of the checkpoint (names, sizes and "
                    "footers count), so that scores would not compare with its best; put them back, or start a new run "
                    "from the checkpoint"
                )
    return reordered
