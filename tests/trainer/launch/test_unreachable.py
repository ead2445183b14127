"""Two machines that both reach node 0 and not each other are named, and the run goes on once they do."""

from pathlib import Path

import pytest

from networks import machines
from runs import COMMAND, digest, end, finish, train
from two_nodes import Cluster

STEPS = ("--schedule.max_steps", "12", "--run_id", "space/run1")


@pytest.mark.matrix
def test_two_nodes_that_do_not_reach_each_other_are_named(bert: Path, texts: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finish(train(bert, texts, whole, 3, *STEPS))
    with machines(3) as network:
        cluster = Cluster(bert, texts, tmp_path / "out", *STEPS, nodes=3)
        with network[1].cut_off_from(network[2]):
            nodes = [
                cluster.node(
                    index,
                    command=[*machine.inside, *COMMAND],
                    environment={"PET_MASTER_ADDR": network[0].address},
                )
                for index, machine in enumerate(network)
            ]
            report = cluster.output / "errors" / "attempt-1"
            assert nodes[0].wait_for(lambda: list(report.glob("*.json"))), nodes[0].process.communicate()[1]
        said = [end(node) for node in nodes]
    told = "node 1 (machine-1) cannot reach node 2 (machine-2) at 10.213.77.3"
    assert told in said[0] and told in said[1], said
    assert digest(cluster.output / "final") == digest(whole / "final")
