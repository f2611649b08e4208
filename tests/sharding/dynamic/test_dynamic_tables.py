"""Tables for unbounded ids in training: against plain loops, on any number of ranks, before and after a reload."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import PooledEmbeddings
from shardrec.sharding.checkpoints.id_maps import read_id_maps, write_id_maps
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.dynamic.dynamic_tables import DynamicTables
from shardrec.sharding.dynamic.id_map import CANDIDATE_BYTES, ROW_BYTES
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.plan_report import plan_text
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from tests.sharding.cases import DEFAULT, GIB, Case, Rows, draw_rows, make, share, table, train
from tests.sharding.dynamic_everywhere import DynamicReference, dynamic_case, raw_batches, raw_id, unseen_batch

WORLDS = (1, 2, 3)


@pytest.fixture(scope="module")
def reference() -> tuple[DynamicReference, list[float], float]:
    plain = DynamicReference(dynamic_case())
    losses = plain.train(raw_batches())
    return plain, losses, plain.loss(unseen_batch())


def test_there_is_something_to_see(reference: tuple[DynamicReference, list[float], float]) -> None:
    """Rows were taken from ids, ids waited for one, and some found none that they may take."""
    plain, *_ = reference
    batches = raw_batches()
    assert any(m.lost for m in plain.maps.values())
    default = {s.name: s.default_row for s in plain.spaces.values()}
    last = plain.translated(batches[-1])
    assert any(i in default.values() for of in last.ids.values() for ids in of for i in ids)


@pytest.mark.parametrize("world_size", WORLDS)
def test_equals_plain_loops_on_any_ranks_and_after_a_reload(
    everywhere: dict[int, list[dict[str, Any]]],
    reference: tuple[DynamicReference, list[float], float],
    world_size: int,
) -> None:
    plain, losses, unseen = reference
    found = everywhere[world_size][0]["dynamic"]
    assert found["losses"] == pytest.approx(losses, abs=2e-5)
    for name, columns in found["maps"].items():
        held = plain.maps[name]
        rows = [row or (None, 0, None) for row in held.table.rows]
        assert columns["count"].tolist() == [count for _, count, _ in rows]
        taken = [r for r, (an_id, _, _) in enumerate(rows) if an_id is not None]
        assert columns["id"][taken].tolist() == [rows[r][0] for r in taken]
        assert columns["last_use"][taken].tolist() == [rows[r][2] for r in taken]
        assert columns["admitted"][taken].tolist() == [held.admitted[r] for r in taken]
        if held.config.after > 1:
            waiting = [row[1] if row else 0 for row in held.candidates.rows]
            assert columns["candidate_count"].tolist() == waiting
    for name, weights in plain.weights.items():
        torch.testing.assert_close(found["tables"][name]["weight"].double(), weights, atol=2e-5, rtol=1e-4, msg=name)
    assert found["unchanged"], "evaluation has changed an id map"
    assert found["unseen"] == pytest.approx(unseen, abs=2e-5)


def test_counters_go_on_over_a_reload_and_add_up_over_ranks(everywhere: dict[int, list[dict[str, Any]]]) -> None:
    sums = []
    for world_size in WORLDS:
        ranks = [result["dynamic"]["counters"] for result in everywhere[world_size]]
        sums.append({n: {c: sum(r[n][c] for r in ranks) for c in ranks[0][n]} for n in ranks[0]})
    assert sums[0] == sums[1] == sums[2]
    assert sum(of["evictions"] for of in sums[0].values()) > 0
    assert sum(of["refused"] for of in sums[0].values()) > 0


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_stream_ends_with_the_same_counts_on_any_number_of_ranks(
    everywhere: dict[int, list[dict[str, Any]]], world_size: int
) -> None:
    """Batches that do not divide by the ranks, the last one shorter."""
    for result in everywhere[world_size]:
        assert result["stream"] == everywhere[1][0]["stream"]


def dynamic(name: str, **said: Any) -> DynamicIds:
    return DynamicIds(name, DynamicConfig(**{"rows": 16, **said}))


def one_table(ids: DynamicIds | None, **more: Any) -> Case:
    rows = ids.num_embeddings if ids else 17
    asked = table("t", rows, 4, dynamic=ids, **more)
    return Case({"x": PooledEmbeddings({"a": asked})}, {"a": 1})


def test_a_reused_row_starts_with_fresh_weights_and_fresh_state() -> None:
    """Ids that come once each push each other out; the last of them has the first step of a row that is new."""
    case = one_table(dynamic("t", rows=1, evict="lru"))
    made = make(case)
    rows = made.plan.tables["t"].table.num_embeddings
    crowd = [Rows({"a": [[raw_id(i + k * rows)] for i in range(rows)]}, {}, [1.0] * rows) for k in range(6)]
    train(case, made, crowd, tower_rate=0.0)
    alone = make(case)
    train(case, alone, crowd[-1:], tower_rate=0.0, first_step=5)
    assert made.id_maps["t"].counters.evictions > 3 * rows
    held, other = made.id_maps["t"], alone.id_maps["t"]
    ids = torch.tensor([i for row in crowd[-1].ids["a"] for i in row])
    there, here = held.find(ids), other.find(ids)
    both = (there >= 0) & (here >= 0)
    assert both.sum() >= rows // 2
    for name in ("weight", "accumulator"):
        last, first = (m.tables["t"].shards[0].tensors[name] for m in (made, alone))
        torch.testing.assert_close(last[there[both]], first[here[both]], atol=1e-6, rtol=0)


def test_unknown_ids_share_the_default_row_which_is_not_zero() -> None:
    case = one_table(dynamic("t"))
    lookup = EmbeddingLookup(case.inputs, (), device="cpu", seed=7).eval()
    rows = Rows({"a": [[raw_id(1)], [raw_id(2)], [-(2**63)]]}, {}, [1.0] * 3)
    found = lookup(share(case, rows, 0, 1, lookup))["x"].detach()
    weight = lookup.unsharded_tables()["t"].shards[0].weight
    assert torch.equal(found[:, 0], weight[-1].expand(3, 4)) and weight[-1].abs().min() > 0
    lookup.train()
    lookup(share(case, rows, 0, 1, lookup))
    found = lookup.eval()(share(case, rows, 0, 1, lookup))["x"].detach()
    assert len({tuple(row) for row in found[:, 0].tolist()}) == 3


def test_memory_of_id_maps_is_planned() -> None:
    case = one_table(dynamic("t", rows=10_000, after=2, candidates=0.5))
    fixed = one_table(None)
    plan, without = (plan_tables(c.inputs, DEFAULT, Topology(2, 2, "cpu", GIB)) for c in (case, fixed))
    (ids,) = {t.dynamic for t in case.inputs["x"].tables.values()}
    share_of_map = (ids.geometry.rows * ROW_BYTES + ids.geometry.rows // 2 * CANDIDATE_BYTES) / 2
    tables = sum(t.bytes_on(0) for t in plan.tables.values())
    assert plan.bytes_per_rank[0] == pytest.approx(tables + share_of_map, abs=ids.geometry.rows)
    assert "id maps" in plan_text(plan) and "id maps" not in plan_text(without)
    made = make(case)
    state = [t for m in made.id_maps.values() for t in (*m.row_state.values(), *m.candidate_state.values())]
    assert sum(t.nbytes for t in state) == pytest.approx(2 * share_of_map, rel=0.01)


def test_tables_of_a_feature_must_agree() -> None:
    one, other = table("t", 17, 4, dynamic=dynamic("a")), table("u", 9, 4)
    inputs = {"x": PooledEmbeddings({"a": one}), "y": PooledEmbeddings({"a": other})}
    with pytest.raises(UserError, match=r"'t' and 'u' hold the same ids \(of feature 'a'\), .* `dynamic` differs"):
        EmbeddingLookup(inputs, ())


def test_tables_of_an_id_space_must_agree_whoever_reads_them() -> None:
    """Of two maps of one name only one could be kept, and ids of the other would be taken for rows."""
    pairs = [("a", dynamic("space", rows=600)), ("b", dynamic("space", rows=100))]
    tables = {f: table(f"{f}/space", ids.num_embeddings, 4, dynamic=ids) for f, ids in pairs}
    inputs = {f: PooledEmbeddings({f: t}) for f, t in tables.items()}
    with pytest.raises(UserError, match=r"'a/space' and 'b/space' hold the same ids \(of feature 'b'\)"):
        EmbeddingLookup(inputs, ())


def test_counting_ahead_is_refused() -> None:
    optimizer = DEFAULT.model_copy(update={"weight_decay": 0.1, "decay": "frequency"})
    with pytest.raises(UserError, match=r"decay: frequency counts .* dynamic"):
        make(one_table(dynamic("t"), optimizer=optimizer))


def test_a_checkpoint_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    case = one_table(dynamic("t"))
    made = make(case)
    train(case, made, [draw_rows(case, 9, torch.Generator().manual_seed(2))])
    entries, saved = write_tables(tmp_path, made.tables), write_id_maps(tmp_path, made.id_maps)
    fixed = make(one_table(None))
    with pytest.raises(UserError, match=r"table 't' is dynamic \(ids of 't'\) there and fixed here"):
        read_tables(tmp_path, entries, fixed.tables)
    with pytest.raises(UserError, match="the ids of 't' are dynamic there and fixed here"):
        read_id_maps(tmp_path, saved, fixed.id_maps, leads=True)
    with pytest.raises(UserError, match="the ids of 't' are fixed there and dynamic here"):
        read_id_maps(tmp_path, {}, made.id_maps, leads=True)
    with pytest.raises(UserError, match=r"dynamic\.rows 16 there and 40 here"):
        read_id_maps(tmp_path, saved, make(one_table(dynamic("t", rows=40))).id_maps, leads=True)
    with pytest.raises(UserError, match=r"dynamic\.after 1 there and 2 here"):
        read_id_maps(tmp_path, saved, make(one_table(dynamic("t", after=2))).id_maps, leads=True)
    (file,) = (tmp_path / "id_maps").iterdir()
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=f"{file.name}: rows 0 to 16 of 'admitted' have changed"):
        read_id_maps(tmp_path, saved, make(replace(case)).id_maps, leads=True)


@pytest.mark.parametrize("rows", [481, 73_445, 524_287])
def test_maps_have_the_rows_that_tables_have(rows: int) -> None:
    """Also where that many, rounded up, would be rounded up once more."""
    ids = DynamicIds("x", DynamicConfig(rows=rows))
    made = DynamicTables({ids: ("x",)}, [], seed=0, device=torch.device("cpu")).maps["x"]
    assert made.geometry.rows == ids.default_row == len(made.row_state["id"])


def test_a_gpu_gives_ids_the_same_rows(gpu: str) -> None:
    case = one_table(dynamic("t", rows=24, after=2))
    lookups = {d: EmbeddingLookup(case.inputs, (), device=d, seed=7) for d in ("cpu", "cuda")}
    for step, rows in enumerate(raw_rows(5), start=1):
        found = {}
        for device, lookup in lookups.items():
            assert lookup.dynamic is not None
            lookup.dynamic.begin(step)
            batch = share(case, rows, 0, 1, lookup).to(torch.device(device))
            found[device] = lookup(batch)["x"].detach().cpu()
        torch.testing.assert_close(found["cpu"], found["cuda"], atol=1e-7, rtol=1e-6)


def raw_rows(count: int) -> list[Rows]:
    return [Rows({"a": [[raw_id(i * i // (3 + k))] for i in range(40)]}, {}, [1.0] * 40) for k in range(count)]
