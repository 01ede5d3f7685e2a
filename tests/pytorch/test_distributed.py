"""A vocabulary that is split over the processes of a gloo group has the loss and the gradient of the whole one."""

import ast

import pytest

from scripts import run
from thorough import thorough


@pytest.mark.parametrize(
    ("works", "world_size"), [("QUICK", 2), thorough("QUICK", 3), thorough("SLOW", 2), thorough("SLOW", 3)]
)
def test_each_rank_finds_right(works, world_size):
    assert run(f"import sharded\nfor work in sharded.{works}: sharded.run_on({world_size}, work)") == ""


@pytest.mark.thorough
@pytest.mark.parametrize("world_size", [2, 3])
def test_every_case_of_the_table_is_that_of_the_whole_vocabulary(world_size, record_property):
    worst = ast.literal_eval(run(f"import sharded\nsharded.run_on({world_size}, sharded.table)"))
    record_property("found", f"{world_size} ranks differ from one by {worst} ulp at most")
    assert 0 < max(worst.values()) <= 4
