"""The test cluster is shared by all checkouts of a machine: nobody removes it under another's tests."""

from pathlib import Path

import pytest

from cluster import lifecycle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, and locks that nobody else has."""
    monkeypatch.setattr(lifecycle, "CACHE", tmp_path)
    monkeypatch.setattr(lifecycle, "remove", lambda: (tmp_path / "removed").touch())


def test_a_cluster_that_tests_use_is_not_removed(tmp_path: Path) -> None:
    with lifecycle.in_use(), pytest.raises(lifecycle.InUse, match="another test run uses the cluster"):
        lifecycle.down()
    assert not (tmp_path / "removed").exists()


def test_a_cluster_that_nobody_uses_is_removed(tmp_path: Path) -> None:
    with lifecycle.in_use():
        pass
    lifecycle.down()
    assert (tmp_path / "removed").exists()
