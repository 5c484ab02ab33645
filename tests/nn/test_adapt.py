"""Networks of a user's own in a cohort: Linen modules, such that return only logits, NNX modules."""

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.run import pretrained
from jaxdistill.run.build import build
from jaxdistill.run.config import group
from tests.helpers import runs

IMAGE = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)


def config(**models):
  result = runs.config("competitive", "steps=6", "epochs=1", "perturb.every=1")
  del result.cohort.convnet
  for name, model in models.items():
    result.cohort[name] = group(model, members=2 if name == "a" else 1)
  return result


def test_a_users_networks_compete_with_each_other(tmp_path):
  settings = config(a="foreign:linen", b="foreign:only_logits", c="foreign:nnx_with_features")
  settings.optimizer.update(dict(learning_rate=0.02, schedule="constant", warmup="0 steps"))
  settings.steps = 44
  summary = jaxdistill.train(settings, tmp_path, quiet=True)
  assert set(summary["members"]) == {"a.0", "a.1", "b.0", "c.0"}
  lines = [line for line in runs.metrics(tmp_path) if line["split"] == "train"]
  for name in summary["members"]:
    assert np.mean([line[f"ce/{name}"] for line in lines[-4:]]) < lines[0][f"ce/{name}"]
    assert lines[0][f"feature/{name}"] >= 0 and all(line[f"skipped/{name}"] == 0 for line in lines)


def run(model, train, seed=0):
  variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, IMAGE, train=False)
  if not train:
    return variables, model.apply(variables, IMAGE, train=False)
  others = [name for name in variables if name != "params"]
  return variables, model.apply(variables, IMAGE, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=others)


def test_the_input_of_the_classifier_is_the_pooled_feature_and_paths_stay():
  model = registry.resolve("models", "foreign:only_logits", num_classes=5)
  variables, output = run(model, train=False)
  assert set(variables["params"]) == {"Dense_0", "head"} and set(output.features) == {"pooled"}
  head = variables["params"]["head"]
  np.testing.assert_allclose(output.features["pooled"] @ head["kernel"] + head["bias"][None], output.logits, rtol=1e-5)
  first, second = (run(model, train=True, seed=seed)[1][0].logits for seed in (1, 2))
  assert np.abs(first - second).max() > 1e-3  # dropout is on in training, and only there


def test_an_nnx_module_has_statistics_and_randomness():
  model = registry.resolve("models", "foreign:from_nnx", num_classes=5)
  variables, output = run(model, train=False)
  assert output.logits.shape == (6, 5) and output.features == {} and set(variables) == {"params", "batch_stats"}
  (first, updated), (second, _) = (run(model, train=True, seed=seed)[1] for seed in (1, 2))
  assert np.abs(first.logits - second.logits).max() > 1e-3
  assert np.abs(updated["batch_stats"]["norm"]["mean"] - variables["batch_stats"]["norm"]["mean"]).max() > 1e-3
  assert {"conv.weight", "norm.running_var", "head.bias"} <= pretrained.shapes(variables).keys()


@pytest.mark.parametrize("models, message", [
    ({"a": "foreign:from_nnx"}, "method.feature 'pooled' is not a feature of a: it has none: set method.beta=0"),
    ({"a": "foreign:wrong"}, r"Conv must return logits \[B, C\], got \(1, 8, 8, 10\)"),
    ({"a": "foreign:nothing"}, "model 'foreign:nothing' cannot be imported"),
    ({"a": "nowhere.at_all:net"}, "model 'nowhere.at_all:net' cannot be imported")])
def test_what_does_not_fit_is_refused_in_one_line(models, message):
  with pytest.raises(ConfigError, match=message):
    build(config(**models))
