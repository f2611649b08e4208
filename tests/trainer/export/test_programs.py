"""Programs predict what the model does. `python -m tests.trainer.export` says so of every model of the registry."""

from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, FeatureCross, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import Jagged, Padded, PooledEmbeddings, SequenceEmbeddings
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import CLICKS, HISTORIES, schema_of
from shardrec.trainer.export.cut import cut
from shardrec.trainer.export.onnx import save_onnx
from shardrec.trainer.export.programs import Program, export_programs
from shardrec.trainer.export.sides import depends_on_candidate
from tests.trainer.export.cases import (
    asked_of,
    build,
    first_row,
    inputs_of,
    one_request,
    predictions,
    run,
    tensors,
)

# one for each layer that exports in a way of its own: batch norm and dice, products, rows in blocks, crosses,
# towers, lists; each way through a history
SAMPLE: list[tuple[str, dict[str, Any]]] = [
    ("deepfm", {"mlp": {"hidden": [8], "activation": "dice", "batch_norm": True}}),
    ("afm", {}),
    ("drn", {}),
    ("autorec", {}),
    ("pooled_history", {"pooling": "sum"}),
    ("bst", {}),
]


@pytest.fixture(scope="module")
def dien() -> tuple[Recommender, dict[str, Program]]:
    model = build("dien")
    return model, export_programs(model, schema_of("dien"))


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert len(expected) < 9 or expected.std() > 0.01, "predictions too much alike to tell anything"


def check_programs(model: Recommender, programs: dict[str, Program]) -> None:
    for rows, length in ((40, 5), (1, 5), (9, 8)):
        inputs = inputs_of(model, rows)
        assert_equal(asked_of(run(programs["tower"], model, inputs, length=length), inputs), predictions(model, inputs))
    if "shared" not in programs:
        return
    inputs = inputs_of(model, 40)
    for row in (0, 1, 7):  # of which the first has no history, and the second a full one
        request = one_request(model, programs["shared"], inputs, row)
        border = run(programs["shared"], model, first_row(request, 0))
        assert_equal(run(programs["candidate"], model, request, *border), predictions(model, request))
        one = first_row(request, 3)
        assert_equal(run(programs["candidate"], model, one, *border), predictions(model, one))


@pytest.mark.parametrize(("name", "settings"), SAMPLE, ids=lambda v: v if isinstance(v, str) else "")
def test_programs_predict_what_the_model_does(name: str, settings: dict[str, Any]) -> None:
    model = build(name, **settings)
    features = tuple(f.model_copy(update={"role": "item"}) for f in schema_of(name).features)
    programs = export_programs(model, schema_of(name).model_copy(update={"features": features}))
    assert set(programs) == {"tower"}  # there is nothing to divide
    check_programs(model, programs)


def test_din_and_what_of_it_is_computed_once() -> None:
    model = build("din")
    programs = export_programs(model, HISTORIES)
    assert set(programs) == {"tower", "shared", "candidate"}
    check_programs(model, programs)


def test_dien_and_what_of_it_is_computed_once(dien: tuple[Recommender, dict[str, Program]]) -> None:
    """The first GRU, and the second one's products with its states, are the request's."""
    model, programs = dien
    check_programs(model, programs)
    loops = {name: steps(program, torch.ops.higher_order.scan) for name, program in programs.items()}
    assert loops == {"tower": 2, "shared": 1, "candidate": 1}
    assert {given.kind for given in programs["candidate"].inputs} == {"shared", "pooled", "dense"}
    assert steps(programs["shared"], torch.ops.aten.linear.default) == 4  # gates and candidates, of both


def test_a_models_user_tower_is_computed_once() -> None:
    model = build("two_tower", mlp={"hidden": [8, 4]}, normalise=True)
    programs = export_programs(model, CLICKS)
    linear = torch.ops.aten.linear.default
    products = {name: steps(program, linear) for name, program in programs.items()}
    assert products == {"tower": 6, "shared": 3, "candidate": 3, "user": 3, "item": 3}
    check_programs(model, programs)
    inputs = inputs_of(model, 20)
    towers = model.towers()
    assert towers is not None
    for side, vectors, names in (("user", towers.user, towers.user_inputs), ("item", towers.item, towers.item_inputs)):
        with torch.no_grad():
            expected = vectors(**{name: inputs[name] for name in names})
        assert_equal(run(programs[side], model, inputs), expected)


def steps(program: Program, target: Any) -> int:
    return sum(node.target is target for node in program.exported.graph.nodes)


def test_the_model_is_left_as_it_is() -> None:
    model = Own(Fields(CLICKS), PointwiseConfig()).double().train()
    model.weight = nn.Parameter(torch.rand(3, dtype=torch.float64))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_programs(model, CLICKS)
    assert model.training
    assert model.weight.requires_grad
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Mixes(nn.Module):
    """What is of the request alone is laid out with rows and slots in one dimension."""

    def forward(self, request: Tensor, item: Tensor) -> Tensor:
        slots = (request * 2).flatten(0, 1)  # [B L, D]
        return (slots * item.repeat_interleave(5, 0)).view(-1, 5, 2).sum((1, 2))


def test_a_cut_passes_nothing_that_cannot_stand_for_candidates() -> None:
    rows = torch.export.Dim("rows")
    example = (torch.rand(3, 5, 2), torch.rand(3, 2))
    whole = torch.export.export(Mixes(), example, dynamic_shapes=({0: rows}, {0: rows}), strict=False)
    parts = cut(whole, [False, True])
    assert parts.border == ("mul",)
    request, items = torch.rand(1, 5, 2), torch.rand(9, 2)
    found = parts.candidate(*parts.shared(request), items)
    torch.testing.assert_close(found, Mixes()(request.expand(9, 5, 2), items))


def test_sides_of_a_request() -> None:
    ids = Identity(num_ids=9)
    of = {role: IdFeature(name=f"a_{role}", ids=ids, role=role) for role in ("user", "context", "item", "user_item")}
    own = FeatureCross(features=(of["user"], of["context"]), num_ids=5)
    both = FeatureCross(features=(of["user"], of["item"]), num_ids=5)
    schema = Schema(
        features=(
            *of.values(),
            IdFeature(name="own", ids=own),
            IdFeature(name="both", ids=both),
            IdFeature(name="said", ids=both, role="context"),
            DenseFeature(name="unknown"),
            SequenceFeature(name="history", ids=ids, max_length=3),
            SequenceFeature(name="pictures", ids=ids, max_length=3, role="item"),
        )
    )
    varying = {f.name for f in schema.features if depends_on_candidate(schema, f.name)}
    assert varying == {"a_item", "a_user_item", "both", "unknown", "pictures"}


class Own(Recommender):
    """A model of a user's: `forward` is a subclass's."""

    def __init__(self, fields: Fields, config: PointwiseConfig) -> None:
        pair = PooledEmbeddings(fields.tables(embedding_dim=4, features=("user", "item")))
        super().__init__(inputs={"pair": pair}, task=config.build_task(fields.schema))

    def forward(self, pair: Tensor) -> Tensor:
        return (pair[:, 0] * pair[:, 1]).sum(1)


class CountsRows(Own):
    def forward(self, pair: Tensor) -> Tensor:
        return super().forward(pair) + torch.zeros(len(pair))


class Decides(Own):
    def forward(self, pair: Tensor) -> Tensor:
        return super().forward(pair if bool(pair.sum() > 0) else -pair)


class ReadsAHistory(Recommender):
    def __init__(self, fields: Fields, config: PointwiseConfig) -> None:
        history = SequenceEmbeddings(fields.tables(embedding_dim=4, features=("item_history",)))
        super().__init__(inputs={"history": history}, task=config.build_task(fields.schema))

    def forward(self, history: Jagged) -> Tensor:
        return torch.stack([rows.sum().tanh() for rows in history.values.split(history.lengths.tolist())])


class HasAPaddedForm(ReadsAHistory):
    def padded(self, history: Padded) -> Tensor:
        return (history.values * history.live[:, :, None, None]).sum((1, 2, 3)).tanh()


@pytest.mark.parametrize(
    ("model_class", "said"),
    [
        (CountsRows, "CountsRows cannot be exported: its code fixes the number of rows"),
        (Decides, "Decides cannot be exported: an `if`, a loop or a shape of its code depends on values"),
        (ReadsAHistory, "ReadsAHistory reads sequences, whose jagged form cannot be exported, and has no `padded`"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_in_one_line(model_class: Any, said: str) -> None:
    schema = HISTORIES if model_class is ReadsAHistory else CLICKS
    with pytest.raises(UserError) as refused:
        export_programs(model_class(Fields(schema), PointwiseConfig()), schema)
    assert str(refused.value).startswith(said)
    assert "docs/own-models.md" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_of_ones_own_gives_its_padded_form() -> None:
    model = HasAPaddedForm(Fields(HISTORIES), PointwiseConfig())
    inputs = inputs_of(model, 9)
    assert_equal(run(export_programs(model, HISTORIES)["tower"], model, inputs), predictions(model, inputs))


def test_onnx_predicts_what_the_model_does(tmp_path: Any) -> None:
    model = HasAPaddedForm(Fields(HISTORIES), PointwiseConfig())
    tower, path = export_programs(model, HISTORIES)["tower"], tmp_path / "tower.onnx"
    assert save_onnx("own", tower, path) < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["tower.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = inputs_of(model, 11)
    names = [name for given in tower.inputs for name in given.tensors]
    assert [given.name for given in session.get_inputs()] == names
    found = session.run(None, dict(zip(names, (t.numpy() for t in tensors(model, tower, inputs)), strict=True)))[0]
    assert_equal(torch.from_numpy(found), predictions(model, inputs))


class Bessel(Own):
    def forward(self, pair: Tensor) -> Tensor:
        return torch.special.bessel_j1(super().forward(pair))


def test_onnx_refuses_what_it_cannot_hold(tmp_path: Any) -> None:
    model = Bessel(Fields(CLICKS), PointwiseConfig())
    tower = export_programs(model, CLICKS)["tower"]
    with pytest.raises(UserError, match=r"^bessel cannot be ONNX: .*bessel_j1.*; leave --onnx out$"):
        save_onnx("bessel", tower, tmp_path / "tower.onnx")
    assert not list(tmp_path.iterdir())
