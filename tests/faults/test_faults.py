"""A small number of each kind of fault; more by hand: `python -m tests.faults.fuzz`."""

from tests.faults import checkpoints


def test_damaged_checkpoints_are_refused_or_unchanged(tmp_path):
  verdict = checkpoints.fuzz(60, seed=0, directory=tmp_path)
  assert not verdict.wrong, verdict
  assert verdict.refused > 40
