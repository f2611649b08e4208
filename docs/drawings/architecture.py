"""Draws the house: `floors.svg`, which room imports from which, and `batch.svg`, a batch's way on two workers.

    python docs/drawings/architecture.py

The floors are those that `tests/test_layering.py` enforces, and what a room answers is what its folder's map says, so
that `tests/docs/test_drawings.py` can hold the drawings to the code.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.drawings.canvas import Canvas, wrapped  # noqa: E402

WIDTH = 1000
EDGE = 20  # between a layer and the drawing's edge, and between a room and its layer's
GAP = 8  # between rooms
LINE = 15
NAME = 110  # width of a room's name
LAYERS = ("trainer", "sharding", "models", "data_pipeline")  # highest first


def floors() -> dict[str, tuple[tuple[str, ...], ...]]:
    """Returns layer -> its floors, highest first, as the layering test has them."""
    for node in ast.parse((ROOT / "tests/test_layering.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "FLOORS":
            assert node.value is not None
            found: dict[str, tuple[tuple[str, ...], ...]] = ast.literal_eval(node.value)
            return found
    raise LookupError("tests/test_layering.py has no FLOORS")


def answers(folder: str) -> dict[str, str]:
    """Returns file or room -> what the folder's map says that it answers; "" -> the map's first line."""
    lines = (ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or "").splitlines()
    entries = [line.removeprefix("- `").split("`: ", 1) for line in lines if line.startswith("- `")]
    plain = {name.removesuffix("/").removesuffix(".py"): text.replace("`", "") for name, text in entries}
    return {"": lines[0]} | plain


def model_files() -> list[str]:
    """Returns the files of `models/` that hold a model, in the order of the models' names."""
    tree = ast.parse((ROOT / "models/__init__.py").read_text())
    texts = (str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant))
    paths = [text for text in texts if re.fullmatch(r"shardrec\.models\.\w+:\w+", text)]
    return list(dict.fromkeys(path.partition(":")[0].rpartition(".")[2] for path in paths))


# ---------------------------------------------------------------- the floors


def rows_of(layer: str) -> list[list[tuple[str, str]]]:
    """Returns a layer's floors, highest first, as (room, what it answers)."""
    texts, known = answers(layer), floors()
    if layer in known:
        return [[(room, texts[room]) for room in rooms] for rooms in known[layer]]
    models = model_files()
    rest = sorted(texts.keys() - {"", "layers", "metrics", *models})
    return [
        [("the models", "one file each: " + ", ".join(models))],
        [("layers", texts["layers"]), ("metrics", texts["metrics"])],
        [("the rest", "what models are made of: " + ", ".join(rest))],
    ]


def draw_row(canvas: Canvas, y: float, rooms: list[tuple[str, str]]) -> float:
    """Draws the rooms of one floor side by side, names beside texts where there is room; returns where it ends."""
    width = (WIDTH - 4 * EDGE - GAP * (len(rooms) - 1)) / len(rooms)
    beside = len(rooms) < 3
    left, down = (NAME, 0) if beside else (0, LINE)
    texts = [wrapped(text, width - 20 - left) for _, text in rooms]
    height = LINE * max(map(len, texts)) + down + 12
    for i, ((name, _), lines) in enumerate(zip(rooms, texts, strict=True)):
        x = 2 * EDGE + i * (width + GAP)
        canvas.box(x, y, width, height, "room")
        canvas.text(x + 10, y + 18, name, "name")
        for k, line in enumerate(lines):
            canvas.text(x + 10 + left, y + 18 + down + LINE * k, line)
    return y + height + GAP


def draw_floors() -> str:
    """Returns the drawing of the layers and the floors inside them."""
    canvas = Canvas(WIDTH, "The floors of shardrec: a room imports only from the floors below its own")
    y: float = 34
    canvas.text(
        EDGE, 22, "A room imports only from floors below its own. Rooms side by side do not know each other.", "note"
    )
    for layer in LAYERS:
        below = canvas.insert()
        top, y = y, y + 50
        canvas.text(2 * EDGE, top + 22, f"{layer}/", "title")
        canvas.text(2 * EDGE, top + 39, answers(layer)[""], "note")
        for rooms in rows_of(layer):
            y = draw_row(canvas, y, rooms)
        below.box(EDGE, top, WIDTH - 2 * EDGE, y - top + 4, f"layer {layer}")
        y += 14
    return canvas.svg(y + 2)


# ---------------------------------------------------------------- a batch's way

Step = tuple[str, str, str]
"""File, function, and what it does."""

READING: tuple[Step, ...] = (
    ("data_pipeline/reading/order.py", "Order.shares", "which lanes, and so which rows, are this worker's"),
    ("data_pipeline/reading/parquet.py", "RangeReader.read", "ranges of rows, decoded as Arrow"),
    ("data_pipeline/reading/collate.py", "Layout.block", "columns as ids and numbers"),
    ("data_pipeline/loading/lanes.py", "LaneReader.take", "shuffled windows, and of each lane the next rows"),
    ("data_pipeline/reading/collate.py", "Layout.collate", "the lanes' rows as one batch, padded to equal size"),
)
FORWARD: tuple[Step, ...] = (
    ("sharding/distribution/distribute.py", "Distributed.begin", "the step's number, rate and weight, for all tables"),
    ("sharding/lookup/lookup.py", "EmbeddingLookup.forward", "ids out, vectors back"),
    ("sharding/lookup/assemble.py", "Assemble.forward", "vectors as the tower's named inputs"),
    ("trainer/session/forward.py", "ForwardStep.forward", "the tower, on this worker's rows"),
    ("models/tasks.py", "Task.loss", "terms, each a total and a count"),
    ("trainer/session/forward.py", "objective", "workers x local total / global count"),
)
BACKWARD: tuple[Step, ...] = (
    ("sharding/updates/row_tables.py", "RowTables.receive", "sharded rows change inside backward (or FBGEMM's do)"),
    ("trainer/session/tower.py", "Tower.step", "the tower's replica"),
    ("sharding/distribution/replicas.py", "Replicas.step", "the data-parallel tables"),
)
EXCHANGES: dict[str, str] = {
    "Distributed.begin": "rows and weight summed",
    "EmbeddingLookup.forward": "ids to rows, vectors back",
    "Task.loss": "totals and counts summed",
    "RowTables.receive": "gradients to rows",
    "Tower.step": "gradients averaged",
    "Replicas.step": "table gradients summed",
}
"""After or at which function the workers exchange something, and what."""

STRIPE = 370  # width of a worker's column
TALL = 42  # height of a step


def draw_steps(canvas: Canvas, y: float, title: str, steps: tuple[Step, ...]) -> float:
    """Draws one part of the way on both workers; returns where the next one begins."""
    canvas.text(EDGE, y + 14, title, "title")
    y += 24
    for number, (file, function, text) in enumerate(steps):
        for x in (EDGE, WIDTH - EDGE - STRIPE):
            canvas.box(x, y, STRIPE, TALL, f"room {file.split('/')[0]}")
            canvas.text(x + 10, y + 17, function, "name")
            canvas.text(x + 10, y + 17 + LINE, text)
            if number:
                canvas.arrow(x + 30, y - GAP, x + 30, y)
        if function in EXCHANGES:
            left, right, middle = EDGE + STRIPE, WIDTH - EDGE - STRIPE, y + TALL / 2
            canvas.arrow(left + 6, middle + 5, right - 6, middle + 5, both=True)
            canvas.text(WIDTH / 2, middle - 4, EXCHANGES[function], "note middle")
        y += TALL + GAP
    return y + 6


def draw_batch() -> str:
    """Returns the drawing of a batch's way from Parquet to updated rows."""
    canvas = Canvas(WIDTH, "A batch's way from Parquet to updated rows, on two workers")
    canvas.text(EDGE + STRIPE / 2, 24, "worker 0", "title middle")
    canvas.text(WIDTH - EDGE - STRIPE / 2, 24, "worker 1", "title middle")
    y = draw_steps(canvas, 34, "In a thread that runs ahead", READING)
    y = draw_steps(canvas, y, "Forward", FORWARD)
    y = draw_steps(canvas, y, "Backward and update", BACKWARD)
    for i, layer in enumerate(reversed(LAYERS)):
        canvas.box(EDGE + 150 * i, y, 14, 14, f"room {layer}")
        canvas.text(EDGE + 150 * i + 20, y + 12, f"{layer}/")
    return canvas.svg(y + 28)


def drawings() -> dict[Path, str]:
    """Returns file -> its content, of all drawings of this script."""
    here = Path(__file__).resolve().parent
    return {here / "floors.svg": draw_floors(), here / "batch.svg": draw_batch()}


if __name__ == "__main__":
    for path, content in drawings().items():
        path.write_text(content)
