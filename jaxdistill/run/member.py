"""One trained member on disk: its weights, and all it takes to rebuild and feed it."""

from collections.abc import Mapping
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.core import registry
from jaxdistill.core.types import PyTree
from jaxdistill.errors import CheckpointError
from jaxdistill.inputs.augment import normalize, to_float
from jaxdistill.run import checkpoint


class Member:
  """A trained network: images uint8[B, H, W, 3] -> logits f32[B, C].

  Attributes:
    model: Flax module: `apply(variables, image, train=False) -> ModelOutput`.
    variables: its variables, {"params", "batch_stats", ...}.
    manifest: what the run wrote beside the weights: step, metrics, model, mean, std,
      ...
    class_names: names of the C classes; empty if the data set had none.
  """

  def __init__(self, model: Any, variables: PyTree, manifest: dict[str, Any]):
    """Joins a network, its variables and its manifest."""
    self.model = model
    self.variables = variables
    self.manifest = manifest
    self.class_names = tuple(manifest["class_names"])
    self._logits = jax.jit(self._run)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Classifies images as they are stored, in evaluation mode.

    They are normalised as they were in training.

    Args:
      images: uint8[B, H, W, 3], or float32 in [0, 1].

    Returns:
      f32[B, C] logits.
    """
    return self._logits(self.variables, jnp.asarray(images))

  def _run(self, variables: PyTree, images: jax.Array) -> jax.Array:
    image = normalize(to_float(images), self.manifest["mean"], self.manifest["std"])
    return self.model.apply(variables, image, train=False).logits.astype(jnp.float32)


def load(directory: str | os.PathLike, *, trust_code: bool = False) -> Member:
  """Loads a member that a run left, without its cohort.

  Args:
    directory: `members/<member>/best` or `members/<member>/last` of a run.
    trust_code: whether a network from outside of this package, "module:function", may
      be imported because the directory names it.

  Raises:
    CheckpointError: if it is missing, damaged, or names a network from outside and is
      not trusted.
  """
  tree, manifest = checkpoint.load(Path(directory))
  if "model" not in manifest:
    raise CheckpointError(
      f"{directory} holds no member: name a directory members/<member>/best of a run"
    )
  keys = dict(manifest["model"])
  name = keys.pop("model")
  if ":" in name and not trust_code:
    raise CheckpointError(
      f"{directory} names the network {name!r}, whose module would be imported: pass "
      "trust_code=True if you trust it"
    )
  model = registry.resolve(
    "models",
    name,
    num_classes=manifest["num_classes"],
    dtype=jnp.dtype(manifest["dtype"]),
    **keys,
  )
  return Member(model, tree, manifest)


def save(directory: Path, variables: PyTree, manifest: Mapping[str, Any]) -> None:
  """Writes one member.

  Args:
    directory: where.
    variables: {"params", ...} of the member.
    manifest: step, metrics, model (its config keys), dtype, num_classes, class_names,
      mean, std.

  Raises:
    StorageError: if it cannot be written.
  """
  checkpoint.save(directory, variables, **manifest)
