"""What stands for a name inside of torch and TorchRec is no other name's, and none that a module has anyway."""

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shardrec.sharding.tables.module_names import feature_key, feature_name, module_name, table_name

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(dir(nn.ModuleDict()))


@given(NAMES)
def test_names_come_back(name: str) -> None:
    assert table_name(module_name(name)) == name
    assert feature_name(feature_key(name)) == name
    assert "." not in module_name(name) and "@" not in feature_key(name) and "@" not in module_name(name)
    nn.ModuleDict()[module_name(name)] = nn.Identity()


def test_ordinary_features_keep_their_names() -> None:
    """A batch's keys then are TorchRec's, and nothing is renamed in a step."""
    assert [feature_key(name) for name in ("user", "a b", "字")] == ["user", "a b", "字"]
