"""Networks of a user's own in a cohort: with our interface, logits alone, or NNX."""

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.run import pretrained
from jaxdistill.run.build import build
from jaxdistill.run.config import group, optimizer
from tests.helpers import runs

FOREIGN = "tests.helpers.foreign"
IMAGE = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)


def config(**models):
  """A competition between networks: group name -> the network's name in `foreign`."""
  result = runs.config("competitive", "steps=6", "epochs=1", "perturb.every=1")
  del result.cohort.convnet
  for name, model in models.items():
    members = 2 if name == "a" else 1
    result.cohort[name] = group(f"{FOREIGN}:{model}", members=members)
  return result


@pytest.mark.slow
def test_a_users_networks_compete_with_each_other(tmp_path):
  settings = config(a="linen", b="only_logits", c="nnx_with_features")
  settings.steps = 44
  settings.optimizer = optimizer("sgd", "constant", learning_rate=0.02)
  summary = jaxdistill.train(settings, tmp_path, quiet=True)
  assert set(summary["members"]) == {"a.0", "a.1", "b.0", "c.0"}
  lines = [line for line in runs.metrics(tmp_path) if line["split"] == "train"]
  for name in summary["members"]:
    last = [line[f"ce/{name}"] for line in lines[-4:]]
    assert np.mean(last) < lines[0][f"ce/{name}"]
    assert lines[0][f"feature/{name}"] >= 0
    assert all(line[f"skipped/{name}"] == 0 for line in lines)


def initialised(name):
  """A network for five classes and its variables."""
  model = registry.resolve("models", f"{FOREIGN}:{name}", num_classes=5)
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  return model, model.init(keys, IMAGE, train=False)


def run_training(model, variables, seed):
  """The output in training mode, and the new statistics."""
  statistics = [name for name in variables if name != "params"]
  rngs = {"dropout": jax.random.key(seed)}
  return model.apply(variables, IMAGE, train=True, rngs=rngs, mutable=statistics)


def test_the_input_of_the_classifier_is_the_pooled_feature_and_paths_stay():
  model, variables = initialised("only_logits")
  output = model.apply(variables, IMAGE, train=False)
  assert set(variables["params"]) == {"Dense_0", "head"}
  assert set(output.features) == {"pooled"}
  head = variables["params"]["head"]
  logits = output.features["pooled"] @ head["kernel"] + head["bias"][None]
  np.testing.assert_allclose(logits, output.logits, rtol=1e-5)


def test_dropout_is_on_in_training():
  model, variables = initialised("only_logits")
  first, _ = run_training(model, variables, seed=1)
  second, _ = run_training(model, variables, seed=2)
  assert np.abs(first.logits - second.logits).max() > 1e-3


def test_an_nnx_module_has_statistics_and_randomness():
  model, variables = initialised("from_nnx")
  output = model.apply(variables, IMAGE, train=False)
  assert output.logits.shape == (6, 5)
  assert output.features == {}
  assert set(variables) == {"params", "batch_stats"}
  names = pretrained.shapes(variables).keys()
  assert {"conv.weight", "norm.running_var", "head.bias"} <= names

  first, updated = run_training(model, variables, seed=1)
  second, _ = run_training(model, variables, seed=2)
  assert np.abs(first.logits - second.logits).max() > 1e-3
  old_mean = variables["batch_stats"]["norm"]["mean"]
  new_mean = updated["batch_stats"]["norm"]["mean"]
  assert np.abs(new_mean - old_mean).max() > 1e-3


@pytest.mark.parametrize(
  "model, message",
  [
    (
      "from_nnx",
      "method.feature 'pooled' is not a feature of a: it has none: set method.beta=0",
    ),
    ("wrong", r"Conv must return logits \[B, C\], got \(1, 8, 8, 10\)"),
    ("nothing", f"model '{FOREIGN}:nothing' cannot be imported"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(model, message):
  with pytest.raises(ConfigError, match=message):
    build(config(a=model))


def test_a_module_that_does_not_exist_is_refused_in_one_line():
  settings = config(a="linen")
  settings.cohort.a.model = "nowhere.at_all:net"
  with pytest.raises(
    ConfigError, match="model 'nowhere.at_all:net' cannot be imported"
  ):
    build(settings)
