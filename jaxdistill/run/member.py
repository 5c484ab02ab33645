"""One trained member on disk: its weights, and all it takes to rebuild and feed it."""

from collections.abc import Callable, Mapping, Sequence
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core import registry
from jaxdistill.core.types import PyTree
from jaxdistill.errors import CheckpointError, ConfigError, reason
from jaxdistill.inputs.normalize import normalize, to_float
from jaxdistill.run import card, checkpoint, pretrained
from jaxdistill.run.manifest import MANIFEST, Damaged, are_channels, read
from jaxdistill.run.pictures import read_picture

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

  def __call__(self, images: jax.Array | np.ndarray) -> jax.Array:
    """Classifies images as they are stored, in evaluation mode.

    They are normalised as they were in training.

    Args:
      images: uint8[B, H, W, 3], or float32 in [0, 1].

    Returns:
      f32[B, C] logits.
    """
    return self._logits(self.variables, jnp.asarray(images))

  def predict(
    self,
    images: jax.Array | np.ndarray | Sequence[str | os.PathLike],
    *,
    top: int = 5,
    size: tuple[int, int] | None = None,
  ) -> list[list[tuple[str | int, float]]]:
    """Returns the most probable classes of every image, the first one first.

    Args:
      images: as they are called with, or paths of image files.
      top: how many classes.
      size: height and width to which files are brought; None takes those of the
        member's training.

    Returns:
      (class, probability) for every image; a class that has no name is a number.

    Raises:
      ConfigError: if the network does not take images of this size.
      DataError: for a file that is no image.
    """
    if isinstance(images, Sequence):
      height, width = self.image_size(size)
      pictures = [read_picture(Path(file), height, width) for file in images]
      images = jnp.asarray(np.stack(pictures))
    probabilities = np.asarray(jax.nn.softmax(self(images)))
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    found = []
    for row, classes in zip(probabilities, best, strict=True):
      found.append([(self.name_of(int(k)), float(row[k])) for k in classes])
    return found

  def name_of(self, label: int) -> str | int:
    """Returns the name of a class; its number if classes have no names."""
    return self.class_names[label] if self.class_names else label

  def image_size(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Returns height and width of the images that the network is given.

    Args:
      size: the ones wished for; None takes those of the member's training.

    Raises:
      ConfigError: if it is not known, or the network does not take such images.
    """
    shape = self.manifest.get("image_shape")
    if shape is None and size is None:
      raise ConfigError(
        "the member does not say the size of its images, as it was written by an "
        "earlier version: give it as size, on the command line as --size=HxW"
      )
    trained_on = None
    if shape is not None:
      trained_on = (shape[0], shape[1])
    if size is None or size == trained_on:
      assert trained_on, "one of both is known"
      return trained_on
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    try:
      jax.eval_shape(self._run, self.variables, images)
    # Whatever a network raises for shapes that do not fit.
    except Exception as error:
      known = ""
      if trained_on:
        known = f" (it was trained on {trained_on[0]}x{trained_on[1]})"
      raise ConfigError(
        f"size: the network takes no images of {size[0]}x{size[1]}{known}: "
        f"{reason(error)}"
      ) from error
    return size

  def _run(self, variables: PyTree, images: jax.Array) -> jax.Array:
    image = normalize(to_float(images), self.manifest["mean"], self.manifest["std"])
    return self.model.apply(variables, image, train=False).logits.astype(jnp.float32)


def load(path: str | os.PathLike, *, trust_code: bool = False) -> Member:
  """Loads a member that a run left, without its cohort, or an exported one.

  Args:
    path: `members/<member>/best` or `members/<member>/last` of a run, or a safetensors
      file with its card.
    trust_code: whether a network from outside of this package, "module:function", may
      be imported because the member names it.

  Raises:
    CheckpointError: if it is missing, damaged, or names a network from outside and is
      not trusted.
  """
  path = Path(path)
  if os.path.isfile(path):
    return _load_file(path, trust_code)
  _require_member(path)
  tree, manifest = checkpoint.load(path)
  if "model" not in manifest:
    raise CheckpointError(
      f"{path} holds no member: name a directory members/<member>/best of a run"
    )
  model = _build(path, manifest, trust_code)
  return Member(model, tree, manifest)


def _require_member(path: Path) -> None:
  """Raises CheckpointError, with what to name instead, if there is no member."""
  if os.path.lexists(path / MANIFEST):
    return
  if not os.path.isdir(path):
    raise CheckpointError(
      f"{path}: there is no such directory or file: name members/<member>/best of a "
      "run, or an exported safetensors file"
    )
  members = members_of(path)
  if members:
    told = ", ".join(members[:4])
    if len(members) > 4:
      told += f" or another of {len(members)}"
    raise CheckpointError(f"{path} is a run, not a member of one: name {told} in it")
  if os.path.lexists(path / "config.json"):
    raise CheckpointError(
      f"{path} is a run without a finished evaluation, so that it has no members yet: "
      "train it on"
    )
  raise CheckpointError(
    f"{path} holds no member: name a directory members/<member>/best of a run"
  )


def members_of(run: Path) -> list[str]:
  """Returns the members that a run has written: "members/<member>/best", ..."""
  found = []
  for file in sorted(run.glob(f"members/*/*/{MANIFEST}")):
    # What was begun and not finished is hidden.
    if not file.parent.name.startswith("."):
      found.append(str(file.parent.relative_to(run)))
  return found


def read_manifest(path: Path) -> dict[str, Any]:
  """Returns what a run wrote beside the weights of a member, which are not read.

  Args:
    path: `members/<member>/best` or `last` of a run.

  Raises:
    CheckpointError: if it is damaged.
  """
  try:
    contents = read(path)
  except Damaged as error:
    raise CheckpointError(
      f"member {path} is damaged: {error}: use another one"
    ) from error
  _check(path, contents)
  return contents


def _load_file(path: Path, trust_code: bool) -> Member:
  """Loads an exported safetensors file; see `load`."""
  contents = card.find(path)
  if contents is None:
    raise CheckpointError(
      f"{path} has no card: the file {card.path_of(path).name}, which was exported "
      "with it, belongs beside it"
    )
  if contents.get("format") != pretrained.FORMAT:
    raise CheckpointError(
      f"{path} was exported as {contents.get('format')}: only safetensors files are "
      "loaded here"
    )
  model = _build(card.path_of(path), contents, trust_code)
  if not _is_shape(contents.get("image_shape")):
    raise CheckpointError(
      f"{card.path_of(path)}: image_shape is {contents.get('image_shape')!r}, not "
      "height, width and 3: export the member again"
    )
  images = jnp.zeros((1, *contents["image_shape"]))
  structure = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  try:
    weights = pretrained.load(str(path), structure, contents["num_classes"])
  except ConfigError as error:
    raise CheckpointError(f"{path}: its card is another network's: {error}") from error
  if weights.missing_head:
    raise CheckpointError(
      f"{path}: its card says {contents['num_classes']} classes, which "
      f"{weights.missing_head} does not have: export the member again"
    )
  return Member(model, pretrained.unflatten(weights.arrays), contents)


def _build(path: Path, manifest: dict[str, Any], trust_code: bool) -> Any:
  """Returns the network that a manifest or a card describes.

  Raises:
    CheckpointError: if it describes none, or one from outside that is not trusted.
  """
  _check(path, manifest)
  keys = dict(manifest["model"])
  name = keys.pop("model")
  if ":" in name and not trust_code:
    raise CheckpointError(
      f"{path} names the network {name!r}, whose module would be imported: pass "
      "trust_code=True if you trust it"
    )
  try:
    return registry.resolve(
      "models",
      name,
      num_classes=manifest["num_classes"],
      dtype=jnp.dtype(manifest["dtype"]),
      **keys,
    )
  # Of keys that the network does not have, or not in this type.
  except (TypeError, ValueError) as error:
    raise CheckpointError(
      f"{path} describes a network that cannot be built ({reason(error)}): use "
      "another member, or the version that wrote it"
    ) from error


def _check(path: Path, manifest: Mapping[str, Any]) -> None:
  """Raises CheckpointError for a manifest, or a card, that no run writes."""
  for key, is_valid in _CHECKS.items():
    if not is_valid(manifest.get(key)):
      raise CheckpointError(
        f"{path}: {key} in its manifest is {manifest.get(key)!r}, which no run "
        "writes: use another member"
      )
  shape = manifest.get("image_shape")
  if shape is not None and not _is_shape(shape):
    raise CheckpointError(
      f"{path}: image_shape in its manifest is {shape!r}, which no run writes: use "
      "another member"
    )


def _is_shape(value: Any) -> bool:
  if not isinstance(value, list) or len(value) != 3 or value[2] != 3:
    return False
  return all(type(side) is int and 0 < side < 2**16 for side in value)


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
      mean, std, image_shape.

  Raises:
    StorageError: if it cannot be written.
  """
  checkpoint.save(directory, variables, **manifest)
