"""MovieLens as histories: what a user rated, whatever the rating, in the order of time.

A movie's first genre is its category. All of a user's ratings are positives; negatives are drawn.
"""

from pathlib import Path

import numpy as np

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.behaviour.events import Coded, Events
from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol, prepare_histories
from shardrec.data_pipeline.prepare.importers.movielens import movies_of, rating_sources
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.source import existing_folder
from shardrec.data_pipeline.prepare.steps.text import no_null

_USER, _MOVIE, _TIME = "user_id", "movie_id", "timestamp"


def prepare_movielens_histories(
    folder: str | Path,
    output: Output,
    protocol: HistoryProtocol | None = None,
    progress: Progress = silent,
) -> Report:
    """Prepares the ratings of MovieLens 1M or 100K, whichever `folder` holds.

    Ratings of equal times keep their order. Raises UserError for files that cannot be read, and for ratings without
    timestamps.
    """
    folder = existing_folder(folder, "MovieLens' files")
    sources = rating_sources(folder)
    batches = []
    for batch, origin in (read for source in sources for read in source.batches()):
        if _TIME not in batch.schema.names:
            raise UserError(f"{origin.file}: has no column {_TIME}; histories need the order, as in ratings.dat")
        for name in (_USER, _MOVIE, _TIME):
            no_null(batch, name, origin)
        batches.append(batch)
    if not batches:
        raise UserError(f"{sources[0].path}: has no rows")
    users, movies = (Coded.of([batch.column(name) for batch in batches]) for name in (_USER, _MOVIE))
    seconds = np.concatenate([batch.column(_TIME).to_numpy() for batch in batches])
    events = Events.of(sources[0].path, users, movies, seconds, _first_genres(folder))
    return prepare_histories(events, protocol or HistoryProtocol(), output, progress)


def _first_genres(folder: Path) -> dict[object, str]:
    movies = movies_of(folder)
    genres = zip(movies.column(_MOVIE).to_pylist(), movies.column("genres").to_pylist(), strict=True)
    return {movie: of_movie[0] for movie, of_movie in genres if of_movie}
