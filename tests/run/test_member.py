"""One member on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.errors import CheckpointError
from jaxdistill.run import checkpoint, member
from jaxdistill.run.manifest import MANIFEST
from tests.faults.malformed import PLACES

KEYS = {"model": "small.convnet", "width": 4}


@pytest.fixture
def network():
  model = registry.resolve("models", "small.convnet", num_classes=3, width=4)
  images = jnp.zeros((1, 8, 8, 3))
  return model, model.init(jax.random.key(0), images, train=False)


def manifest(**changes):
  values = {
    "step": 7,
    "metrics": {"top1": 0.5},
    "model": KEYS,
    "dtype": "float32",
    "num_classes": 3,
    "class_names": ("cat", "dog", "owl"),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.2, 0.1),
  }
  return {**values, **changes}


def test_a_loaded_member_normalises_and_classifies(network, rng, tmp_path):
  model, variables = network
  member.save(tmp_path / "m", variables, manifest())
  loaded = jaxdistill.load(tmp_path / "m")
  images = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
  mean = np.array([0.5, 0.4, 0.3]).reshape(1, 1, 1, 3)
  std = np.array([0.2, 0.2, 0.1]).reshape(1, 1, 1, 3)
  normalised = jnp.asarray((images / 255 - mean) / std, jnp.float32)
  expected = model.apply(variables, normalised, train=False).logits
  np.testing.assert_allclose(loaded(images), expected, rtol=1e-5, atol=1e-6)
  assert loaded.class_names == ("cat", "dog", "owl")
  assert loaded.manifest["step"] == 7
  assert jax.tree.structure(loaded.variables) == jax.tree.structure(variables)


def test_what_is_no_member_is_refused(tmp_path):
  with pytest.raises(CheckpointError, match="holds no member: name a directory"):
    jaxdistill.load(tmp_path)
  checkpoint.save(tmp_path / "state", {"x": jnp.ones(2)})
  with pytest.raises(CheckpointError, match="holds no member: name a directory"):
    jaxdistill.load(tmp_path / "state")


@pytest.mark.parametrize(
  "change, message",
  [
    ({"model": 5}, "model in its manifest is 5"),
    ({"model": {"width": 4}}, "model in its manifest is {'width': 4}"),
    ({"model": {**KEYS, "depth": 4}}, "a network that cannot be built"),
    ({"model": {**KEYS, "num_classes": 4}}, "a network that cannot be built"),
    ({"num_classes": "3"}, "num_classes in its manifest is '3'"),
    ({"num_classes": 2**40}, "num_classes in its manifest is 1099511627776"),
    ({"dtype": "O"}, "dtype in its manifest is 'O'"),
    ({"class_names": [1]}, "class_names in its manifest is [1]"),
    ({"mean": [0.5]}, "mean in its manifest is [0.5]"),
    ({"std": [0.1, 0.1, float("nan")]}, "std in its manifest is [0.1, 0.1, nan]"),
  ],
)
def test_manifests_that_no_run_writes_are_refused(tmp_path, change, message):
  member.save(tmp_path / "m", {"params": {"x": jnp.ones(2)}}, manifest(**change))
  with pytest.raises(CheckpointError) as caught:
    jaxdistill.load(tmp_path / "m")
  assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder", "loop"])
@pytest.mark.parametrize("name", [MANIFEST, "data/_METADATA", "data/new"])
def test_what_is_no_file_is_not_read(tmp_path, name, kind):
  member.save(tmp_path / "m", {"params": {"x": jnp.ones(2)}}, manifest())
  path = tmp_path / "m" / name
  path.unlink(missing_ok=True)
  PLACES[kind](path)
  if (name, kind) == ("data/new", "folder"):
    jaxdistill.load(tmp_path / "m")
    return
  with pytest.raises(
    CheckpointError, match=f"{name} (cannot be read|has changed|is missing|was)"
  ):
    jaxdistill.load(tmp_path / "m")


def test_a_directory_does_not_decide_what_is_imported(network, tmp_path):
  foreign = manifest(model={"model": "jaxdistill.models.small:convnet", "width": 4})
  member.save(tmp_path / "m", network[1], foreign)
  with pytest.raises(CheckpointError, match="pass trust_code=True if you trust it"):
    jaxdistill.load(tmp_path / "m")
  loaded = jaxdistill.load(tmp_path / "m", trust_code=True)
  assert loaded(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)
