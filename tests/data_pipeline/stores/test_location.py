"""Paths in a store: named as URIs and mirrored as folders; objects that come and go in order, whatever the network."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.streams import opened_input, write_new
from shardrec.data_pipeline.stores import filesystems
from shardrec.data_pipeline.stores.location import StorePath
from shardrec.data_pipeline.stores.mirrors import address, local, mirrored
from shardrec.data_pipeline.stores.retries import ATTEMPTS, StoreError
from tests.object_store import BUCKET, Fault, ObjectStore

NAMES = st.text(st.characters(blacklist_characters="/?\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(st.lists(NAMES.filter(lambda name: name.strip(".")), max_size=4), st.sampled_from(("", "region=eu-west-1")))
def test_a_uri_and_its_mirror_are_known_by_each_other(names: list[str], query: str) -> None:
    uri = "/".join(["s3://bucket", *names]) + (f"?{query}" if query else "")
    path = StorePath.parse(uri)
    assert mirrored(local(uri)) == path
    assert StorePath.parse(address(local(uri))) == path
    assert local("s3://bucket/a") / "b" == local("s3://bucket/a/b")


def test_a_local_path_has_no_mirror_and_names_stay_inside_theirs(tmp_path: Path) -> None:
    assert local(tmp_path) == tmp_path and mirrored(tmp_path) is None and address(tmp_path) == str(tmp_path)
    with pytest.raises(UserError, match=r"names in it have to be those of folders"):
        local("s3://bucket/a/../../b")


def test_a_folder_is_moved_and_removed_with_its_manifest_last_and_first(store: ObjectStore, tmp_path: Path) -> None:
    folder = StorePath.parse(f"s3://{BUCKET}/{tmp_path.name}/a")
    for name in ("tables/x", "manifest.json", "tables/y"):
        (folder / name).write_text(name)
    store.requests.clear()
    folder.rename(folder.with_name("b"))
    copied = [r for r in store.requests if r.startswith("PUT") and "/b/" in r and not r.endswith("/")]
    gone = [r for r in store.requests if r.startswith("DELETE") or "?delete" in r]
    assert copied[-1].endswith("b/manifest.json") and len(copied) == 3
    assert gone[0].endswith("a/manifest.json")
    assert store.names(tmp_path.name) == ["b/manifest.json", "b/tables/x", "b/tables/y"]
    assert (folder.with_name("b") / "tables/y").read_text() == "tables/y"
    folder.with_name("b").remove()
    assert store.names(tmp_path.name) == [] and not list(folder.iterdir())
    with pytest.raises(FileNotFoundError):
        (folder / "manifest.json").read_bytes()


FAULTS = [
    Fault("GET .*/large", "cut", times=2),
    Fault("GET .*/large", "500", times=2),
    Fault("GET .*/large", "closed", times=2),
    Fault("HEAD .*/large", "500", times=2),
    Fault("PUT .*partNumber=2", "500", times=2),
    Fault("PUT .*partNumber=1", "closed", times=2),
    Fault("POST .*uploadId", "500", times=2),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.pattern} {fault.kind}")
def test_what_is_streamed_in_parts_and_read_by_ranges_is_whole_whatever_fails(
    fault: Fault, store: ObjectStore, tmp_path: Path
) -> None:
    path, data = StorePath.parse(f"s3://{BUCKET}/{tmp_path.name}/large"), os.urandom(25 << 20)
    found, parts = bytearray(9 << 20), [memoryview(data)[at : at + (5 << 20)] for at in range(0, 25 << 20, 5 << 20)]
    with store.failing(fault):
        write_new(path, lambda file: [file.write(part) for part in parts])
        with opened_input(path) as opened:
            assert opened.size == len(data)
            assert opened.read_into(memoryview(found), 7 << 20) == len(found)
    assert found == data[7 << 20 : 16 << 20]
    assert store.read(f"{tmp_path.name}/large") == data
    assert fault.befallen == 2


def test_a_body_that_stops_is_asked_for_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "SILENT_SECONDS", 1.0)  # curl notices after some five
    filesystems._s3.cache_clear()
    path = StorePath.parse(f"s3://{BUCKET}/{tmp_path.name}/slow")
    path.write_bytes(bytes(1 << 20))
    fault = Fault("GET .*/slow", "slow", times=1, seconds=30.0)
    with store.failing(fault):
        assert path.read_bytes() == bytes(1 << 20)
    assert fault.befallen == 1
    filesystems._s3.cache_clear()


def test_says_what_failed_how_often_and_why(store: ObjectStore, tmp_path: Path) -> None:
    path = StorePath.parse(f"s3://{BUCKET}/{tmp_path.name}/x")
    path.write_text("x")
    with store.failing(fault := Fault("GET .*/x", "500")), pytest.raises(StoreError) as failed:
        path.read_bytes()
    assert str(failed.value).startswith(f"{path}: read: failed {ATTEMPTS} times, the last time by: AWS Error INTERNAL")
    assert fault.befallen == ATTEMPTS
    with (
        store.failing(fault := Fault("PUT .*/x", "403")),
        pytest.raises(StoreError, match=r"x: written: refused \("),
    ):
        path.write_text("y")
    assert fault.befallen == 1
    with pytest.raises(StoreError, match="no such bucket"):
        StorePath.parse("s3://no-such-bucket/x").write_text("x")
