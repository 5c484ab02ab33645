"""Runs whose members are measured by what they find."""

from flax import linen as nn
import pytest

import jaxdistill
from jaxdistill.core.types import ModelOutput
from jaxdistill.engine.evaluate import evaluate
from jaxdistill.engine.resident import put_resident
from jaxdistill.engine.retrieval import RATES
from jaxdistill.errors import ConfigError
from jaxdistill.run.build import build
from jaxdistill.run.config import apply_overrides, default, group
from tests.helpers import market, runs


class Bare(nn.Module):
  """A network that returns no features."""

  @nn.compact
  def __call__(self, x, train):
    return ModelOutput(nn.Dense(4)(x.mean((1, 2))), {})


def bare(*, num_classes, dtype) -> nn.Module:
  return Bare()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return market.write(tmp_path_factory.mktemp("market") / "set", persons=4)


def config_of(folder, method="competitive", *overrides):
  """A pair of tiny networks on persons in images of 32x16 pixels."""
  config = default("market1501", method)
  config.data.update(
    {"dir": str(folder), "allow_partial": True, "height": 32, "width": 16}
  )
  config.cohort.convnet = group("small.convnet", members=2, width=4)
  config.augment.pad_crop.padding = 2
  common = ["batch_size=8", "steps=2", "mesh.devices=1", "perturb.ops="]
  apply_overrides(config, [*common, *overrides])
  return config


@pytest.mark.parametrize(
  "method, overrides, message",
  [
    ("dml", ["select_on=holdout", "holdout=4"], "market1501 is searched, .*=test"),
    ("dml", [f"cohort.convnet.model={__name__}:bare"], "no feature 'pooled', by which"),
    ("ps_kd", ["sampler=balanced"], "sampler=balanced with repeats=1 may show one twi"),
    ("ps_kd", ["repeats=2"], "sampler=shuffle with repeats=2 may show one twice"),
    ("dml", ["sampler=identities", "sampler_images=3"], "batch_size 8 is no multiple"),
    ("dml", ["sampler=sorted"], "sampler must be shuffle, balanced or identities"),
    ("dml", ["repeats=0"], "repeats must be at least 1"),
  ],
)
def test_what_does_not_suit_is_refused(folder, method, overrides, message):
  config = config_of(folder, method)
  if "bare" in overrides[0]:
    del config.cohort.convnet["width"]
  with pytest.raises(ConfigError, match=message):
    apply_overrides(config, overrides)
    build(config)


def test_best_weights_are_those_that_find_most_on_the_test_split(folder):
  experiment = build(config_of(folder, "dml", "holdout=4"))
  assert experiment.select_on == "test"
  assert experiment.task.selecting.name == "rank1"
  assert experiment.dataset.holdout


@pytest.mark.slow
def test_members_learn_to_find_persons_that_they_have_never_seen(tmp_path, capsys):
  folder = market.write(tmp_path / "set", persons=20, images=4)
  config = config_of(
    folder,
    "competitive",
    "batch_size=24",
    "sampler=identities",
    "sampler_images=3",
    "steps=60",
    "eval_every=30 steps",
    "cohort.convnet.width=8",
    "optimizer.learning_rate=0.05",
  )
  experiment = build(config)
  test = experiment.dataset.test
  resident = put_resident(experiment.mesh, test.image, test.label)
  before, _ = evaluate(
    experiment.eval_step,
    experiment.init(),
    resident.parts(experiment.eval_batch_size),
    experiment.mesh,
    experiment.task,
  )
  assert list(before) == list(experiment.members)

  summary = jaxdistill.train(config, tmp_path / "run")
  rates = [rate.name for rate in RATES]
  for name, row in summary["members"].items():
    assert before[name]["rank1"] < 0.3
    assert row["last"]["rank1"] > 0.6
    assert row["last"]["rank1"] <= row["last"]["rank5"] <= row["last"]["rank10"] <= 1
    assert row["last"]["map"] > before[name]["map"] + 0.2
  # Nothing of classification, and no ensemble: a prediction has no features.
  assert summary["predictions"] == []
  lines = [line for line in runs.metrics(tmp_path / "run") if line["split"] == "test"]
  measured = {key for key in lines[-1] if "/" in key}
  assert measured == {f"{rate}/{name}" for rate in rates for name in before}
  kept = jaxdistill.load(tmp_path / "run" / "members" / "convnet.0" / "best")
  best = summary["members"]["convnet.0"]["best"]
  assert kept.manifest["metrics"]["rank1"] == best["rank1"]
  said = capsys.readouterr().out
  assert "test Rank-1 %  convnet.0" in said and "mAP %" in said
