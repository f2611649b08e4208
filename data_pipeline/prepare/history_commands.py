"""These commands of `shardrec prepare` make rows with behaviour sequences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.options import (
    MOST,
    FolderPath,
    Fractions,
    Out,
    Overwrite,
    SourcePath,
    Test,
    Validation,
    progress,
    shares,
    show,
    text_format,
    writes,
)
from shardrec.data_pipeline.prepare.steps.option_values import Sampling, TimeType

if TYPE_CHECKING:
    from shardrec.data_pipeline.prepare.steps.preparation import Output

app = typer.Typer()

MaxLength = Annotated[int, typer.Option(min=1, max=MOST, help="So many of a user's latest events are a row's history.")]
MinHistory = Annotated[int, typer.Option(min=0, max=MOST, help="Leave out rows with fewer earlier events.")]
Negatives = Annotated[int, typer.Option(min=1, max=10_000, help="Rows with another item for each positive.")]
Sampled = Annotated[Sampling, typer.Option(help="Items of negatives: all alike, or as often as they occur.")]
HistoryNegatives = Annotated[
    bool, typer.Option("--history-negatives", help="Beside each event of a history an item that the user never had.")
]
KeepUnknown = Annotated[
    bool, typer.Option("--keep-unknown", help="Keep held-out items that no training event has, as row 0.")
]
FirstOnly = Annotated[
    bool, typer.Option("--first-only", help="Leave out events with an item that the user had before.")
]
Ages = Annotated[
    bool, typer.Option("--ages", help="Beside each event of a history the days between it and the event asked for.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of negatives and of the order of training rows.")]


@app.command()
@writes()
def histories(
    source: SourcePath,
    output: "Output",
    attributes: Annotated[
        Path | None, typer.Option(help="JSON: item -> list of attributes, the first of which is its category.")
    ] = None,
    max_length: MaxLength = 50,
    min_history: MinHistory = 1,
    negatives: Negatives = 1,
    sampling: Sampled = "uniform",
    history_negatives: HistoryNegatives = False,
    keep_unknown: KeepUnknown = False,
    first_only: FirstOnly = False,
    seed: Seed = 0,
) -> None:
    """Prepares user histories, `user item item ...` a line: is this the user's next item? The last two are held out."""
    from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol
    from shardrec.data_pipeline.prepare.importers.user_histories import prepare_user_histories

    protocol = HistoryProtocol(
        max_length, min_history, negatives, sampling, history_negatives, keep_unknown, seed, first_only
    )
    show(prepare_user_histories(source, output, protocol, attributes, progress))


@app.command()
@writes()
def amazon(
    output: "Output",
    reviews: Annotated[Path, typer.Option(help="Reviews: JSON lines, plain or gzip.")],
    metadata: Annotated[
        Path | None, typer.Option(help="Metadata: lines of JSON or of Python literals. Default: no categories.")
    ] = None,
    max_length: MaxLength = 50,
    min_history: MinHistory = 1,
    negatives: Negatives = 1,
    sampling: Sampled = "uniform",
    history_negatives: HistoryNegatives = False,
    keep_unknown: KeepUnknown = False,
    first_only: FirstOnly = False,
    ages: Ages = False,
    seed: Seed = 0,
) -> None:
    """Prepares Amazon reviews as histories: is this the user's next item? The last two are held out."""
    from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol
    from shardrec.data_pipeline.prepare.importers.amazon import prepare_amazon

    protocol = HistoryProtocol(
        max_length, min_history, negatives, sampling, history_negatives, keep_unknown, seed, first_only, ages
    )
    show(prepare_amazon(reviews, output, protocol, metadata, progress))


@app.command("movielens-histories")
@writes()
def movielens_histories(
    source: FolderPath,
    output: "Output",
    max_length: MaxLength = 50,
    min_history: MinHistory = 1,
    negatives: Negatives = 1,
    sampling: Sampled = "uniform",
    history_negatives: HistoryNegatives = False,
    keep_unknown: KeepUnknown = False,
    first_only: FirstOnly = False,
    ages: Ages = False,
    seed: Seed = 0,
) -> None:
    """Prepares MovieLens as histories: is this the next movie that the user rates? The last two are held out."""
    from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol
    from shardrec.data_pipeline.prepare.importers.movielens_histories import prepare_movielens_histories

    protocol = HistoryProtocol(
        max_length, min_history, negatives, sampling, history_negatives, keep_unknown, seed, first_only, ages
    )
    show(prepare_movielens_histories(source, output, protocol, progress))


@app.command()
@writes()
def pairs(
    source: SourcePath,
    output: "Output",
    validation: Validation = None,
    test: Test = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Between the fields of files with a pair a line; \\t is a tab. Default: `user item item ...`"
        ),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Names of the fields, `user,item`: no header line.")] = None,
    user: Annotated[str, typer.Option(help="Column of users.")] = "user",
    item: Annotated[str, typer.Option(help="Column of items.")] = "item",
    time: Annotated[str | None, typer.Option(help="Column of times. Default: none, in the order of lines.")] = None,
    time_type: Annotated[TimeType, typer.Option(help="How times are compared.")] = "integer",
    weight: Annotated[str | None, typer.Option(help="Column of sample weights.")] = None,
    max_length: Annotated[
        int, typer.Option(min=0, max=MOST, help="So many of a user's latest training items are a row's history.")
    ] = 50,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="A row's history ends before it, in the order of lines or times.")
    ] = False,
    train_with_validation: Annotated[
        bool, typer.Option("--train-with-validation", help="Validation pairs are training pairs too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of the order of training rows.")] = 0,
) -> None:
    """Prepares pairs for retrieval: `user item item ...` a line, or delimited; each split has files of its own."""
    from shardrec.data_pipeline.prepare.importers.implicit import LogColumns
    from shardrec.data_pipeline.prepare.importers.pairs import PairForm, prepare_pairs
    from shardrec.data_pipeline.prepare.steps.source import Inputs

    own = (*(name for name in (user, item) if name not in ("user", "item")), columns, time, weight)
    if delimiter is None and (named := next(filter(None, own), None)):
        raise UserError(f"{named!r} names a column, but lines of `user item item ...` have none; give --delimiter")
    text = None if delimiter is None else text_format(delimiter, columns)
    form = PairForm(text, LogColumns(user, item, time, time_type), weight)
    inputs = Inputs([source], validation or (), test or (), divided=False)
    show(prepare_pairs(inputs, form, output, max_length, train_with_validation, seed, progress, ordered=ordered))


@app.command("synthetic-histories")
def synthetic_histories(
    out: Out,
    rows: Annotated[int, typer.Option(min=1, help="Rows of all splits together.")] = 625_000,
    items: Annotated[int, typer.Option(min=1, help="Items of targets and histories.")] = 200_000,
    categories: Annotated[int, typer.Option(min=2, help="Categories of the items.")] = 100,
    interests: Annotated[int, typer.Option(min=1, help="Categories that one history is of.")] = 10,
    mean_length: Annotated[float, typer.Option(min=1, help="Mean length of a history.")] = 23.0,
    max_length: Annotated[int, typer.Option(min=1, help="Longest history.")] = 50,
    order: Annotated[bool, typer.Option("--order", help="The category's latest events count most.")] = False,
    history_negatives: HistoryNegatives = False,
    skew: Annotated[float, typer.Option(min=0, help="Items of a category are as frequent as rank^-skew.")] = 1.2,
    click_rate: Annotated[float, typer.Option(help="Share of clicks.")] = 0.5,
    fractions: Fractions = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Files written at a time, by a local Ray if more than 1.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Makes a click log with planted interests that pooled histories hide; best.yaml has the best scores."""
    from shardrec.data_pipeline.prepare.generators.interests import InterestLog
    from shardrec.data_pipeline.prepare.generators.planted import Histories
    from shardrec.data_pipeline.prepare.generators.synthetic import write_log

    log = InterestLog(
        Histories(items, mean_length, max_length),
        categories,
        interests,
        order=order,
        negatives=history_negatives,
        skew=skew,
        click_rate=click_rate,
        seed=seed,
    )
    show(write_log(log, out, rows, shares(fractions), workers, overwrite, progress))
