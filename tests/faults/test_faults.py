"""A small number of each kind of fault; more by hand: `python -m tests.faults.fuzz`."""

import pytest

from tests.faults import checkpoints, configs, inputs


def test_damaged_checkpoints_are_refused_or_unchanged(tmp_path):
  verdict = checkpoints.fuzz(40, seed=0, directory=tmp_path)
  assert not verdict.wrong, verdict
  assert verdict.refused > 25


def test_damaged_weights_are_refused_or_finite(tmp_path):
  verdict = inputs.fuzz_weights(24, seed=0, directory=tmp_path)
  assert not verdict.wrong, verdict
  assert verdict.refused > 20


@pytest.mark.parametrize("count", [42, pytest.param(500, marks=pytest.mark.slow)])
def test_wrong_configs_are_refused_or_built(tmp_path, count):
  verdict = configs.fuzz(count, seed=count, directory=tmp_path)
  assert not verdict.wrong, verdict
  assert verdict.refused > count / 2 and verdict.accepted


@pytest.mark.slow
def test_many_damaged_weights_are_refused_or_finite(tmp_path):
  verdict = inputs.fuzz_weights(240, seed=1, directory=tmp_path)
  assert not verdict.wrong, verdict
  assert verdict.refused > 200


@pytest.mark.slow
def test_damaged_data_is_refused_or_unchanged(tmp_path):
  verdict = inputs.fuzz_data(420, seed=0, directory=tmp_path)
  assert not verdict.wrong, verdict
  assert verdict.refused > 300
