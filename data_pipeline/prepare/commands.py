"""`shardrec prepare` has one command per data set, and one for any delimited file."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.history_commands import app as history_app
from shardrec.data_pipeline.prepare.options import (
    FolderPath,
    Fractions,
    HashIds,
    MinCount,
    NegativeRate,
    NoValidation,
    Out,
    Overwrite,
    Seed,
    SourcePath,
    Test,
    Validation,
    progress,
    shares,
    show,
    text_format,
    writes,
)
from shardrec.data_pipeline.prepare.steps.option_values import (
    FIELD_IDS,
    RATINGS_ROW_GROUP_ROWS,
    Axis,
    CriteoNumbers,
    TimeType,
)

if TYPE_CHECKING:
    from shardrec.data_pipeline.prepare.steps.preparation import Output
    from shardrec.data_pipeline.prepare.steps.source import Inputs
    from shardrec.data_pipeline.prepare.steps.splits import SplitRule

app = typer.Typer(
    help="Raw public data sets and delimited files to Parquet and schema.yaml.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(history_app)


@app.command()
@writes(workers=True)
def movielens(
    source: FolderPath,
    output: "Output",
    fold: Annotated[int | None, typer.Option(min=1, max=5, help="Official fold (100K): u1 to u5.")] = None,
    by_time: Annotated[
        bool, typer.Option("--by-time", help="Split by timestamp, not by hash of user and movie.")
    ] = False,
    fractions: Fractions = None,
    threshold: Annotated[float, typer.Option(help="Ratings from here on have label 1.")] = 4.0,
    negative_rate: NegativeRate = 1.0,
    seed: Seed = 0,
) -> None:
    """Prepares MovieLens 1M or 100K."""
    from shardrec.data_pipeline.prepare.importers.movielens import prepare_movielens
    from shardrec.data_pipeline.prepare.steps.splits import FRACTIONS, HashSplit, TimeSplit

    if not isfinite(threshold):
        raise UserError(f"--threshold: found {threshold}, expected a rating such as 4")
    split: SplitRule | None = None
    if by_time:
        split = TimeSplit(column="timestamp", fractions=shares(fractions) or FRACTIONS)
    elif fractions:
        split = HashSplit(columns=("user_id", "movie_id"), seed=seed, fractions=shares(fractions) or FRACTIONS)
    show(prepare_movielens(source, output, split, fold, threshold, _rate(negative_rate), seed, progress=progress))


@app.command()
@writes(row_group_rows=RATINGS_ROW_GROUP_ROWS)
def ratings(
    source: FolderPath,
    output: "Output",
    rows: Annotated[
        Axis, typer.Option("--as", help="A row is an item with its ratings by users, or a user's.")
    ] = "item",
    fractions: Annotated[
        str | None, typer.Option(help="Shares of train,validation,test. Default 0.855,0.045,0.1.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Prepares MovieLens' ratings as lists, for AutoRec; the same split as single ratings: movielens --fractions."""
    from shardrec.data_pipeline.prepare.importers.ratings import prepare_ratings

    show(prepare_ratings(source, output, rows, shares(fractions), seed, progress))


@app.command()
@writes()
def ncf(
    source: FolderPath,
    output: "Output",
    name: Annotated[str | None, typer.Option(help="Which data set, where the folder holds several.")] = None,
    no_validation: NoValidation = False,
    seed: Seed = 0,
) -> None:
    """Prepares the leave-one-out files of He et al. 2017: NAME.train.rating, NAME.test.rating, NAME.test.negative."""
    from shardrec.data_pipeline.prepare.importers.ncf import prepare_ncf

    show(prepare_ncf(source, output, name, not no_validation, seed, progress=progress))


@app.command()
@writes()
def implicit(
    source: SourcePath,
    output: "Output",
    user: Annotated[str, typer.Option(help="Column of users.")] = "user",
    item: Annotated[str, typer.Option(help="Column of items.")] = "item",
    time: Annotated[str | None, typer.Option(help="Column of times. Default: none, held-out items are random.")] = None,
    time_type: Annotated[TimeType, typer.Option(help="How times are compared.")] = "integer",
    delimiter: Annotated[str, typer.Option(help="Between fields; \\t is a tab.")] = ",",
    columns: Annotated[str | None, typer.Option(help="Names of the fields, `user,item,time`: no header line.")] = None,
    candidates: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Negatives that a held-out item is ranked among.")
    ] = 99,
    no_validation: NoValidation = False,
    keep_unknown: Annotated[
        bool, typer.Option("--keep-unknown", help="Keep held-out items that no training row has, as row 0.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Prepares a delimited log of users and items: each user's last item is for test, the one before for validation."""
    from shardrec.data_pipeline.prepare.importers.implicit import LogColumns, prepare_implicit

    form = text_format(delimiter, columns)
    log = LogColumns(user, item, time, time_type)
    show(prepare_implicit([source], log, form, output, candidates, not no_validation, seed, keep_unknown, progress))


@app.command()
@writes(workers=True)
def libfm(
    source: SourcePath,
    output: "Output",
    fields: Annotated[
        str | None, typer.Option(help="Field map, `user:0,item:957`, or a file with a name and a first id per line.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Field that grouped metrics go by.")] = None,
    validation: Validation = None,
    test: Test = None,
    fractions: Fractions = None,
    negative_rate: NegativeRate = 1.0,
    seed: Seed = 0,
) -> None:
    """Prepares libfm or svmlight files: `label id:value id:value ...`."""
    from shardrec.data_pipeline.prepare.importers.libfm import PATTERNS as LIBFM_PATTERNS
    from shardrec.data_pipeline.prepare.importers.libfm import parse_field_map, prepare_libfm
    from shardrec.data_pipeline.prepare.steps.splits import FRACTIONS, HashSplit

    inputs = _inputs(source, validation, test, fractions, LIBFM_PATTERNS)
    field_map = parse_field_map(fields) if fields else None
    split = HashSplit(seed=seed, fractions=shares(fractions) or FRACTIONS)
    show(prepare_libfm(inputs, output, split, field_map, _rate(negative_rate), seed, group, progress=progress))


@app.command()
@writes(workers=True)
def frappe(
    source: FolderPath,
    output: "Output",
    raw: Annotated[
        bool, typer.Option("--raw", help="The raw log frappe.csv, with two sampled negatives a row.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Prepares Frappe: the libfm files as they are split, or the raw log."""
    from shardrec.data_pipeline.prepare.importers.frappe import prepare_frappe

    show(prepare_frappe(source, output, raw, seed, progress=progress))


@app.command("criteo")
@writes(workers=True)
def criteo_command(
    source: SourcePath,
    output: "Output",
    min_count: MinCount = 10,
    hash_ids: HashIds = None,
    numbers: Annotated[
        CriteoNumbers, typer.Option(help="Integers as log, standardised numbers, or as ids of (ln x)^2 buckets.")
    ] = "dense",
    validation: Validation = None,
    test: Test = None,
    fractions: Fractions = None,
    negative_rate: NegativeRate = 1.0,
    seed: Seed = 0,
) -> None:
    """Prepares Criteo: Kaggle's train.txt (and unlabeled test.txt as --test), or the Terabyte's day_* files."""
    from shardrec.data_pipeline.prepare.importers import criteo
    from shardrec.data_pipeline.prepare.steps.splits import FRACTIONS, HashSplit

    inputs = _inputs(source, validation, test, fractions, criteo.PATTERNS)
    split = HashSplit(seed=seed, fractions=shares(fractions) or FRACTIONS)
    recipe = criteo.recipe(min_count, hash_ids, numbers, split, _rate(negative_rate), seed)
    show(criteo.prepare_criteo(inputs, recipe, output, progress))


@app.command("avazu")
@writes(workers=True)
def avazu_command(
    source: SourcePath,
    output: "Output",
    min_count: MinCount = 2,
    hash_ids: HashIds = None,
    by_time: Annotated[bool, typer.Option("--by-time", help="Split by hour, not by hash of the row's number.")] = False,
    validation: Validation = None,
    test: Test = None,
    fractions: Fractions = None,
    negative_rate: NegativeRate = 1.0,
    seed: Seed = 0,
) -> None:
    """Prepares Avazu's CSV, with or without header line."""
    from shardrec.data_pipeline.prepare.importers import avazu
    from shardrec.data_pipeline.prepare.steps.splits import FRACTIONS, HashSplit, TimeSplit

    inputs = _inputs(source, validation, test, fractions, avazu.PATTERNS)
    parts = shares(fractions) or FRACTIONS
    split = TimeSplit(column="hour", fractions=parts) if by_time else HashSplit(seed=seed, fractions=parts)
    recipe = avazu.recipe(split, min_count, hash_ids, _rate(negative_rate), seed)
    show(avazu.prepare_avazu(inputs, recipe, output, progress))


@app.command("open-bandit")
@writes()
def open_bandit(
    output: "Output",
    source: Annotated[
        list[Path], typer.Argument(help="Log files of a campaign, folders of them, or quoted globs; plain or gzip.")
    ],
    items: Annotated[
        Path | None, typer.Option(help="Items' features. Default: item_context.csv beside each log.")
    ] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="List in each row all items, with their features and affinities.")
    ] = False,
    by_time: Annotated[bool, typer.Option("--by-time", help="Split by time, not by hash of the row's number.")] = False,
    validation: Validation = None,
    test: Test = None,
    fractions: Fractions = None,
    seed: Seed = 0,
) -> None:
    """Prepares logged bandit data in the layout of the Open Bandit Dataset, with propensities, in the order of time."""
    from shardrec.data_pipeline.prepare.importers.open_bandit import PATTERNS as OPEN_BANDIT_PATTERNS
    from shardrec.data_pipeline.prepare.importers.open_bandit import BanditProtocol, prepare_open_bandit

    if by_time and (validation or test):
        raise UserError("--by-time: splits the rows of SOURCE, and --validation or --test name files that are splits")
    inputs = _inputs(source, validation, test, fractions, OPEN_BANDIT_PATTERNS)
    protocol = BanditProtocol(shares(fractions), by_time, seed, candidates)
    show(prepare_open_bandit(inputs, output, protocol, items, progress))


@app.command()
@writes(workers=True)
def delimited(
    source: SourcePath,
    output: "Output",
    recipe: Annotated[Path, typer.Option(help="YAML: what each column is (docs/prepare.md).")],
    validation: Validation = None,
    test: Test = None,
    fractions: Fractions = None,
) -> None:
    """Prepares any CSV or TSV whose columns a recipe declares."""
    from shardrec.data_pipeline.prepare.importers.delimited import prepare_delimited

    inputs = _inputs(source, validation, test, fractions)
    show(prepare_delimited(inputs, recipe, output, shares(fractions), progress))


@app.command("synthetic")
def synthetic_command(
    out: Out,
    rows: Annotated[int, typer.Option(min=1, help="Rows of all splits together.")] = 1_250_000,
    fields: Annotated[int | None, typer.Option(min=1, help="Id columns. Default: as many as --ids names.")] = None,
    ids: Annotated[
        str, typer.Option(help="Number of ids, of every field or of all in turn, `1000` or `1000,20`.")
    ] = ",".join(map(str, FIELD_IDS)),
    dense: Annotated[int, typer.Option(min=0, help="Columns of numbers.")] = 4,
    skew: Annotated[float, typer.Option(min=0, help="Ids are as frequent as rank^-skew.")] = 1.2,
    history_items: Annotated[int, typer.Option(min=0, help="Items of a target and its history. 0: none.")] = 0,
    history_length: Annotated[float, typer.Option(min=1, help="Mean length of a history.")] = 20.0,
    history_max: Annotated[int, typer.Option(min=1, help="Longest history.")] = 50,
    click_rate: Annotated[float, typer.Option(help="Share of clicks.")] = 0.25,
    fractions: Fractions = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Files written at a time, by a local Ray if more than 1.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Makes a click log with a planted model; the best attainable scores are written beside it (best.yaml)."""
    from shardrec.data_pipeline.prepare.generators.planted import Histories, Strengths
    from shardrec.data_pipeline.prepare.generators.synthetic import parse_ids, synthetic

    histories = Histories(history_items, history_length, history_max) if history_items else None
    made = synthetic(
        out,
        rows=rows,
        fields=fields,
        ids=parse_ids(ids),
        dense=dense,
        skew=skew,
        histories=histories,
        strengths=Strengths(click_rate=click_rate),
        fractions=shares(fractions),
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    show(made)


def _inputs(
    source: Path | list[Path],
    validation: list[Path] | None,
    test: list[Path] | None,
    fractions: str | None,
    patterns: tuple[str, ...] = ("*",),
) -> "Inputs":
    from shardrec.data_pipeline.prepare.steps.source import Inputs

    return Inputs(
        source if isinstance(source, list) else [source],
        validation or (),
        test or (),
        True if fractions else None,
        patterns,
    )


def _rate(rate: float) -> float:
    if rate == 0:
        raise UserError("--negative-rate: found 0, expected a share above 0; without negatives nothing can be learned")
    return rate
