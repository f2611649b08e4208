"""Dynamic tables in several processes: what they are trained on, what each process gives back, and plain loops."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import DenseFeatures
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints.id_maps import merged_id_maps, read_id_maps, write_id_maps
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.distribution.distribute import Distributed
from shardrec.sharding.tables.first_values_by_id import draw_rows as first_values
from tests.sharding.cases import SEED, Case, Rows, draw_rows, every_case, make, score, train, whole_tables
from tests.sharding.plain_id_map import PlainMap, plain_mixed
from tests.sharding.reference import Reference

STEPS, BREAK, IDS = 8, 4, 70
DETACHED = ("fields", "history", "bags")
ANY = ("data_parallel", "table_wise", "row_wise", "column_wise")
RULES = (
    TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3),
    TableOptimizer(name="adam", learning_rate=0.02, eps=1e-3),
    TableOptimizer(name="sgd", learning_rate=0.2, momentum=0.9),
    TableOptimizer(name="ftrl", learning_rate=2.0, beta=13.0, l2=1.0),
    TableOptimizer(name="rmsprop", learning_rate=0.01, eps=1e-3, smoothing=0.9),
)
CONFIGS = (
    DynamicConfig(rows=16),
    DynamicConfig(rows=16, after=2, candidates=2.0),
    DynamicConfig(rows=16, evict="lru"),
    DynamicConfig(rows=16, evict="age", age=2),
)


def id_spaces(case: Case) -> dict[str, DynamicIds]:
    """Table -> its id space: of all tables that are linked by features, called after the first."""
    pairs = [(t.name, f) for i in case.inputs.values() if not isinstance(i, DenseFeatures) for f, t in i.tables.items()]
    space = {name: name for name, _ in pairs}
    for _ in pairs:
        for name, feature in pairs:
            linked = [space[other] for other, f in pairs if f == feature] + [space[name]]
            space |= {other: min(linked) for other, s in space.items() if s in linked}
    names = sorted(set(space.values()))
    return {t: DynamicIds(s, CONFIGS[names.index(s) % len(CONFIGS)]) for t, s in space.items()}


def dynamic_case(first: int = 0) -> Case:
    """Every table of `every_case` dynamic, under placements dealt from the `first` on; some inputs once more, detached.

    Detached ids find the rows that the step's other ids leave them, and are not counted.
    """
    case = every_case().rotated(ANY, first, RULES).with_detached(DETACHED)
    spaces = id_spaces(case)

    def change(table: EmbeddingTable) -> EmbeddingTable:
        ids = spaces[table.name]
        return replace(table, num_embeddings=ids.num_embeddings, dynamic=ids)

    return case.changed(change)


def raw_id(number: int) -> int:
    word = plain_mixed(number + 1)
    return word - (1 << 64) if word >> 63 else word


def raw_batches() -> list[Rows]:
    """Global batches of raw ids, many more than there are rows, of which some come back."""
    generator = torch.Generator().manual_seed(11)
    drawn = every_case().with_detached(DETACHED).changed(lambda t: replace(t, num_embeddings=IDS))
    found = [draw_rows(drawn, 14, generator) for _ in range(STEPS)]
    return [
        replace(rows, ids={f: [[raw_id(i * i // IDS) for i in ids] for ids in of] for f, of in rows.ids.items()})
        for rows in found
    ]


def unseen_batch() -> Rows:
    """Rows of which some ids were never trained on."""
    rows = raw_batches()[-1]
    return replace(
        rows,
        ids={
            f: [[raw_id(1000 + n) if n % 2 else i for n, i in enumerate(ids)] for ids in of]
            for f, of in rows.ids.items()
        },
    )


def whole_maps(distributed: Distributed) -> dict[str, dict[str, Tensor]]:
    """All ranks' parts of the maps put together."""
    mine = {n: {**m.row_state, **m.candidate_state} for n, m in distributed.id_maps.items()}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {n: {c: torch.cat([p[n][c] for p in parts]) for c in columns} for n, columns in mine.items()}


def train_dynamic(rank: int, folder: Path) -> dict[str, Any]:
    """Eight steps on two ranks, whose fourth others go on from; what the tables and maps are in the end."""
    world_size, batches = dist.get_world_size(), raw_batches()
    folder = folder / "dynamic"
    if world_size == 2:
        case = dynamic_case()
        made = make(case)
        losses = train(case, made, batches[:BREAK])
        folder.mkdir(exist_ok=True)
        written = (write_tables(folder, made.tables), write_id_maps(folder, made.id_maps))
        parts: list[Any] = [None] * world_size
        dist.all_gather_object(parts, written)
        if rank == 0:
            content = {
                "tables": [entry for tables, _ in parts for entry in tables],
                "id_maps": merged_id_maps(maps for _, maps in parts),
                "bias": made.tower_parameters()["tower.bias"].item(),
                "losses": losses,
            }
            (folder / "manifest.json").write_text(json.dumps(content))
    else:
        case = dynamic_case(first=world_size)
        made = make(case)
        content = json.loads((folder / "manifest.json").read_text())
        read_tables(folder, content["tables"], made.tables)
        read_id_maps(folder, content["id_maps"], made.id_maps, leads=rank == 0)
        with torch.no_grad():
            made.tower_parameters()["tower.bias"].fill_(content["bias"])
        losses = content["losses"]
    losses = losses + train(case, made, batches[BREAK:], first_step=BREAK)
    before, tables = whole_maps(made), whole_tables(made)
    unseen = score(case, made, unseen_batch())
    after = whole_maps(made)
    counters = {n: vars(m.counters) for n, m in made.id_maps.items()}
    return {
        "losses": losses,
        "tables": tables,
        "maps": before,
        "unseen": unseen,
        "unchanged": all(torch.equal(after[n][c], t) for n, columns in before.items() for c, t in columns.items()),
        "counters": counters,
    }


@dataclass
class DynamicReference(Reference):
    """Plain training whose rows are given to ids by `PlainMap`."""

    maps: dict[str, PlainMap] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spaces = id_spaces(self.case)
        for ids in self.spaces.values():
            self.maps.setdefault(ids.name, PlainMap(ids.config, ids.geometry))

    def _step(self, rows: Rows, tower_rate: float) -> float:
        for name, held in self.maps.items():
            learned = {f for i in self.case.inputs.values() if not getattr(i, "detached", True) for f in i.tables}
            features = {f for f, ids in self._of_feature().items() if ids.name == name and f in learned}
            named = Counter(i for f in features for of in rows.ids[f] for i in of)
            held.observe(dict(named), self.step)
            for table, ids in self.spaces.items():
                for row, an_id in held.fresh.items() if ids.name == name else ():
                    self._renew(table, row, an_id)
        self.step += 1
        return super()._step(self.translated(rows), tower_rate)

    def _of_feature(self) -> dict[str, DynamicIds]:
        inputs = [i for i in self.case.inputs.values() if not isinstance(i, DenseFeatures)]
        return {f: self.spaces[t.name] for i in inputs for f, t in i.tables.items()}

    def _renew(self, name: str, row: int, an_id: int) -> None:
        (table,) = {t for i in self.case.inputs.values() if not isinstance(i, DenseFeatures)
                    for t in i.tables.values() if t.name == name}  # fmt: skip
        self.weights[name][row] = first_values(table, SEED, torch.tensor([an_id]))[0].double()
        for key in [k for k in self.state[name] if k.endswith(f" {row}")]:
            del self.state[name][key]

    def translated(self, rows: Rows) -> Rows:
        of = self._of_feature()

        def row(feature: str, an_id: int) -> int:
            found = self.maps[of[feature].name].table.row(an_id)
            return of[feature].default_row if found < 0 else found

        return replace(rows, ids={f: [[row(f, i) for i in ids] for ids in lists] for f, lists in rows.ids.items()})

    def loss(self, rows: Rows) -> float:
        """Of a batch as evaluation sees it."""
        rows, total = self.translated(rows), 0.0
        inputs = [i for i in self.case.inputs.values() if not isinstance(i, DenseFeatures)]
        for r, scale in enumerate(rows.scale):
            found = self.bias + sum(float(self._score(i, rows, r, self.weights)) for i in inputs) / len(inputs)
            total += scale * (found - 0.5) ** 2
        return total / sum(rows.scale)
