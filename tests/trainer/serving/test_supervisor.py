"""The supervisor says in one line what it cannot serve, before it starts a worker."""

import socket
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.serving.settings import Settings
from shardrec.trainer.serving.supervisor import serve


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            serve(Settings(str(tmp_path), port=port))


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"{path}: .*expected a bundle, which `shardrec export` makes"):
            serve(Settings(str(path), port=0))
