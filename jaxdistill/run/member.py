"""One trained member on disk: its weights, and all it takes to rebuild and feed it."""

from collections.abc import Callable, Mapping
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.core import registry
from jaxdistill.core.types import PyTree
from jaxdistill.errors import CheckpointError, reason
from jaxdistill.inputs.normalize import normalize, to_float
from jaxdistill.run import checkpoint
from jaxdistill.run.manifest import are_channels

_DTYPES = ("float32", "bfloat16", "float16", "float64")


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
  for key, is_valid in _CHECKS.items():
    if not is_valid(manifest.get(key)):
      raise CheckpointError(
        f"{directory}: {key} in its manifest is {manifest.get(key)!r}, which no run "
        "writes: use another member"
      )
  keys = dict(manifest["model"])
  name = keys.pop("model")
  if ":" in name and not trust_code:
    raise CheckpointError(
      f"{directory} names the network {name!r}, whose module would be imported: pass "
      "trust_code=True if you trust it"
    )
  try:
    model = registry.resolve(
      "models",
      name,
      num_classes=manifest["num_classes"],
      dtype=jnp.dtype(manifest["dtype"]),
      **keys,
    )
  # Of keys that the network does not have, or not in this type.
  except (TypeError, ValueError) as error:
    raise CheckpointError(
      f"{directory} describes a network that cannot be built ({reason(error)}): use "
      "another member, or the version that wrote it"
    ) from error
  return Member(model, tree, manifest)


def _is_model(value: Any) -> bool:
  return isinstance(value, dict) and isinstance(value.get("model"), str)


def _is_count(value: Any) -> bool:
  return type(value) is int and 0 < value < 2**31


def _are_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(name, str) for name in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
  "model": _is_model,
  "num_classes": _is_count,
  "dtype": lambda value: value in _DTYPES,
  "class_names": _are_texts,
  "mean": are_channels,
  "std": are_channels,
}
"""Entries of the manifest that are used here -> whether a value may be one."""


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
