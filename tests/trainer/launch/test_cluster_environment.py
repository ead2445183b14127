"""The variables that the chart sets, as the trainer reads them."""

import pytest

from distrain_trainer.errors import SettingsError
from distrain_trainer.launch.cluster_environment import ClusterEnvironment


def test_what_is_not_set_or_empty_is_unknown_and_other_variables_are_ignored() -> None:
    assert ClusterEnvironment.read({"RUN_GRACE_SECONDS": "", "RUN_OF_THE_DAY": "x"}) == ClusterEnvironment()
    told = ClusterEnvironment.read({"RUN_GPUS_PER_NODE": "0", "RUN_RDMA": "1", "RUN_NODE_NAME": "gpu-17"})
    assert told == ClusterEnvironment(gpus_per_node=0, rdma=True, node_name="gpu-17")


def test_only_nodes_of_one_run_with_one_hash_are_of_the_same_run() -> None:
    here, there = (ClusterEnvironment(settings_hash=value) for value in ("a", "b"))
    assert here.run_of("space/run1") == ClusterEnvironment(settings_hash="a").run_of("space/run1") != ""
    assert len({here.run_of("space/run1"), there.run_of("space/run1"), here.run_of("space/run2")}) == 3
    assert ClusterEnvironment().run_of("space/run1") == here.run_of(None) == ""


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("RUN_GPUS_PER_NODE", "eight", "a valid integer"),
        ("RUN_METRICS_PORT", "99999", "less than 65536"),
        ("RUN_GRACE_SECONDS", "0", "greater than 0"),
        ("RUN_RDMA", "maybe", "a valid boolean"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(name: str, text: str, wanted: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '{text}', but it should be {wanted}; correct or remove it"):
        ClusterEnvironment.read({name: text})
