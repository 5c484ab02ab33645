"""Exports one trained network as a file for others, with a card.

python -m jaxdistill export runs/digits/members/convnet.0/best --to=safetensors \
    --out=convnet.safetensors
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxdistill.errors import (
  ConfigError,
  JaxdistillError,
  StorageError,
  reason,
  require,
  run_command,
)
from jaxdistill.inputs.normalize import normalize, to_float
from jaxdistill.nn.conv import as_written
from jaxdistill.nn.heads import padded_apart
from jaxdistill.run import card, pretrained, workdir
from jaxdistill.run.member import Member, load
from jaxdistill.tools import _model_card
from jaxdistill.tools._sizes import parse_size

_PLATFORMS = ("cpu", "cuda", "tpu")
_INPUTS = ("uint8", "float32")
# How much outputs of a file may differ, relative to the largest logit if that is above
# 1: float32 in another order.
_TOLERANCE = 1e-4

# Of a run's config, what a recipe is; paths of this machine stay out of the card.
_RECIPE = (
  "method",
  "optimizer",
  "batch_size",
  "steps",
  "epochs",
  "augment",
  "perturb",
  "label_smoothing",
  "ema_decay",
  "dtype",
)


class Exported(NamedTuple):
  """What is exported, whatever the format.

  Attributes:
    member: the network.
    size: height and width of its images.
    images: type of a program's images, "uint8" or "float32".
  """

  member: Member
  size: tuple[int, int]
  images: str


class Format(NamedTuple):
  """A format of files.

  Attributes:
    write: writes an exported network to a path.
    check: raises ConfigError unless the file at a path gives back what was written.
    is_program: whether the file computes, and does not only hold weights.
  """

  write: Callable[[Exported, Path], None]
  check: Callable[[Exported, Path], None]
  is_program: bool


# safetensors.


def _tensors(exported: Exported) -> dict[str, np.ndarray]:
  """Returns published name -> array, as PyTorch's state has them.

  Raises:
    ConfigError: for a network of one's own whose variables PyTorch's layout has not.
  """
  variables = exported.member.variables
  try:
    tensors = pretrained.to_published(variables)
  except KeyError as error:
    raise ConfigError(
      f"--to=safetensors: PyTorch has no layout for a kernel of {error} axes: export "
      "with --to=flax"
    ) from error
  require(
    len(tensors) == len(jax.tree.leaves(variables)),
    "--to=safetensors: two variables of the network have one name in PyTorch's naming: "
    "export with --to=flax",
  )
  step = exported.member.manifest.get("step", 0)
  tensors |= pretrained.batch_counters(variables, step)
  # Transposed axes are written in the order of the memory otherwise.
  return {name: np.asarray(x, order="C") for name, x in tensors.items()}


def _write_safetensors(exported: Exported, path: Path) -> None:
  # PyTorch's own files say so, and some readers insist on it.
  safetensors.numpy.save_file(_tensors(exported), path, metadata={"format": "pt"})


def _check_safetensors(exported: Exported, path: Path) -> None:
  found = safetensors.numpy.load_file(path)
  expected = _tensors(exported)
  same = found.keys() == expected.keys()
  same = same and all(np.array_equal(found[name], x) for name, x in expected.items())
  _require_equal(same, path)


# flax.


def _write_flax(exported: Exported, path: Path) -> None:
  variables = jax.tree.map(np.asarray, exported.member.variables)
  path.write_bytes(flax.serialization.msgpack_serialize(variables))


def _check_flax(exported: Exported, path: Path) -> None:
  found = flax.serialization.msgpack_restore(path.read_bytes())
  expected = exported.member.variables
  same = jax.tree.structure(found) == jax.tree.structure(expected)
  same = same and all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))
  _require_equal(same, path)


# Programs.


def _function(exported: Exported) -> Callable[[jax.Array], jax.Array]:
  """Returns images -> logits, with weights and normalisation inside."""
  member = exported.member
  mean, std = member.manifest["mean"], member.manifest["std"]

  def logits(images: jax.Array) -> jax.Array:
    image = normalize(to_float(images), mean, std)
    output = member.model.apply(member.variables, image, train=False)
    return output.logits.astype(jnp.float32)

  return logits


@contextlib.contextmanager
def _converting(converter: str) -> Iterator[None]:
  """Turns whatever a converter raises into one line.

  Raises:
    ConfigError: in place of what was raised inside; errors of this package pass.
  """
  try:
    yield
  except JaxdistillError:
    raise
  except Exception as error:
    raise ConfigError(
      f"{converter} cannot convert this network ({reason(error)}): export with "
      "--to=safetensors"
    ) from error


def _write_stablehlo(exported: Exported, path: Path) -> None:
  height, width = exported.size
  shape = jax_export.symbolic_shape(f"batch, {height}, {width}, 3")
  images = jax.ShapeDtypeStruct(shape, jnp.dtype(exported.images))
  # What convolutions do for the sake of training would only bloat the program.
  with as_written(), _converting("--to=stablehlo: jax.export"):
    function = jax.jit(_function(exported))
    program = jax_export.export(function, platforms=_PLATFORMS)(images)
  path.write_bytes(program.serialize())


def _check_stablehlo(exported: Exported, path: Path) -> None:
  program = jax_export.deserialize(bytearray(path.read_bytes()))

  def run(images: np.ndarray) -> np.ndarray:
    return np.asarray(program.call(images))

  _require_same_logits(exported, run, path)


def _jax2onnx() -> Callable:
  """Returns the converter of jax2onnx.

  Raises:
    ConfigError: if it, or what it needs, is not installed.
  """
  try:
    import jax2onnx  # pyright: ignore[reportMissingImports]
    import onnx  # pyright: ignore[reportMissingImports]
    import onnxruntime  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ConfigError(
      f"--to=onnx needs {error.name or 'jax2onnx'}: pip install onnx onnx-ir "
      "onnxruntime equinox einops, then pip install --no-deps jax2onnx, whose "
      "pin of orbax-checkpoint is older than ours"
    ) from error
  del onnx, onnxruntime
  return jax2onnx.to_onnx


def _write_onnx(exported: Exported, path: Path) -> None:
  import onnx  # pyright: ignore[reportMissingImports]

  height, width = exported.size
  images = jax.ShapeDtypeStruct(
    ("batch", height, width, 3),  # pyright: ignore[reportArgumentType]
    jnp.dtype(exported.images),
  )
  # jax2onnx 0.17 takes every pooling for one without padding.
  with as_written(), padded_apart(), _converting("--to=onnx: jax2onnx"):
    program = _jax2onnx()(_function(exported), [images], return_mode="proto")
  # Some of the shapes noted inside are of another order of axes; readers infer them.
  del program.graph.value_info[:]
  onnx.save(program, str(path))


def _check_onnx(exported: Exported, path: Path) -> None:
  import onnxruntime  # pyright: ignore[reportMissingImports]

  try:
    session = onnxruntime.InferenceSession(str(path))
  # Of classes that the library keeps to itself.
  except Exception as error:
    raise ConfigError(
      f"--to=onnx: jax2onnx made a program of this network that onnxruntime refuses "
      f"({reason(error)}): export with --to=stablehlo or --to=safetensors"
    ) from error
  name = session.get_inputs()[0].name

  def run(images: np.ndarray) -> np.ndarray:
    return np.asarray(session.run(None, {name: images})[0])

  _require_same_logits(exported, run, path)


def _require_equal(same: bool, path: Path) -> None:
  if not same:
    raise StorageError(f"{path} does not read as it was written: try another disk")


def _require_same_logits(
  exported: Exported, run: Callable[[np.ndarray], np.ndarray], path: Path
) -> None:
  """Compares a program with its member on images that are drawn.

  Raises:
    ConfigError: if their logits differ.
  """
  rng = np.random.default_rng(0)
  # No power of two, and not the batch of anything else.
  shape = (3, *exported.size, 3)
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  if exported.images == "float32":
    images = images.astype(np.float32) / 255
  expected = np.asarray(exported.member(images))
  found = run(images)
  limit = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
  difference = float(np.abs(found - expected).max())
  require(
    difference <= limit,
    f"--to: the exported program's logits differ from the member's by "
    f"{difference:.2g}, more than {limit:.2g}: export with --to=safetensors",
  )


FORMATS = {
  pretrained.FORMAT: Format(_write_safetensors, _check_safetensors, is_program=False),
  "flax": Format(_write_flax, _check_flax, is_program=False),
  "stablehlo": Format(_write_stablehlo, _check_stablehlo, is_program=True),
  "onnx": Format(_write_onnx, _check_onnx, is_program=True),
}
"""Name -> format."""


# The cards.


def _training(source: Path, member: Member) -> dict[str, Any]:
  """Returns what is known of the run that a member is from; {} if nothing is."""
  if source.is_file():
    return member.manifest.get("training") or {}
  # runs/digits/members/convnet.0/best
  file = source.absolute().parent.parent.parent / "config.json"
  if not file.is_file():
    return {}
  try:
    return _described(workdir.read_record(file), source.absolute().parent.name)
  # Of another version, or of something else: the weights are good without it.
  except (ConfigError, KeyError, TypeError):
    return {}


def _described(record: Mapping[str, Any], member: str) -> dict[str, Any]:
  """Returns what a run's `config.json` says of a member's training."""
  config = record["config"]
  recipe = {key: config[key] for key in _RECIPE if config.get(key) is not None}
  # Steps, where they are given, are what counts.
  if recipe.get("steps"):
    recipe.pop("epochs", None)
  group = member.rpartition(".")[0]
  files = config["cohort"].get(group, {}).get("init", "").split(",")
  return {
    "data": config["data"]["name"],
    "members": sum(section["members"] for section in config["cohort"].values()),
    "seed": config.get("seed"),
    "recipe": recipe,
    "init": ", ".join(Path(name).name for name in files),
    "config_digest": record.get("config_digest"),
    "versions": record.get("versions", {}),
  }


def _contents(exported: Exported, source: Path, to: str) -> dict[str, Any]:
  """Returns what is in the card."""
  manifest = exported.member.manifest
  if source.is_file():
    origin = {"member": manifest.get("member"), "which": manifest.get("which")}
  else:
    place = source.absolute()
    origin = {"member": place.parent.name, "which": place.name}
  keys = ("step", "metrics", "select_on", "model", "dtype", "num_classes")
  contents = {key: manifest.get(key) for key in keys}
  contents["class_names"] = list(exported.member.class_names)
  parameters = jax.tree.leaves(exported.member.variables["params"])
  contents |= {
    "mean": list(manifest["mean"]),
    "std": list(manifest["std"]),
    "image_shape": [*exported.size, 3],
    "parameters": sum(int(x.size) for x in parameters),
    "format": to,
    **origin,
    "training": _training(source, exported.member),
    "exported_with": workdir.versions(),
  }
  if FORMATS[to].is_program:
    what = "uint8" if exported.images == "uint8" else "float32 in [0, 1]"
    contents["input"] = f"{what}, [batch, {exported.size[0]}, {exported.size[1]}, 3]"
  return contents


# The command.


def export(
  source: str | os.PathLike,
  to: str,
  out: str | os.PathLike,
  *,
  overwrite: bool = False,
  size: tuple[int, int] | None = None,
  images: str = "uint8",
  trust_code: bool = False,
) -> list[Path]:
  """Exports a member; the file is compared with it before it takes its place.

  Args:
    source: `members/<member>/best` or `last` of a run, or an exported safetensors file.
    to: one of `FORMATS`.
    out: file to write; its cards are `<out>.json` and `<out>.md`.
    overwrite: whether to replace what is there.
    size: height and width of the images; None takes those of the member's training.
    images: what a program takes, "uint8" or "float32" in [0, 1].
    trust_code: as `jaxdistill.load` has it.

  Returns:
    The files that were written.

  Raises:
    ConfigError: for an output that exists, a format whose library is missing, or sizes
      that do not fit.
    CheckpointError: if there is no intact member.
    StorageError: if it cannot be written.
  """
  source, out = Path(source), Path(out)
  files = [out, card.path_of(out), out.with_name(f"{out.name}.md")]
  if out.is_dir():
    raise ConfigError(f"--out={out} is a directory: name a file in it")
  for file in files:
    require(
      overwrite or not os.path.lexists(file),
      f"{file} exists already: give another --out, or --overwrite to replace it",
    )
  if to == "onnx":
    _jax2onnx()

  member = load(source, trust_code=trust_code)
  exported = Exported(member, member.image_size(size), images)
  contents = _contents(exported, source, to)
  _write_all(files, exported, contents, FORMATS[to])
  return files


def _write_all(
  files: Sequence[Path],
  exported: Exported,
  contents: Mapping[str, Any],
  file_format: Format,
) -> None:
  """Writes the file and its cards beside their places, checks, and moves them there."""
  out = files[0]
  partial = [file.with_name(f".{file.name}.partial") for file in files]
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    file_format.write(exported, partial[0])
    file_format.check(exported, partial[0])
    card.write(partial[1], contents, sha256=card.digest(partial[0]))
    partial[2].write_text(_model_card.text(out.name, contents))
    # Stopped in between, the file and the card do not fit each other, which is noticed.
    for temporary, file in zip(partial, files, strict=True):
      os.replace(temporary, file)
  except (OSError, safetensors.SafetensorError) as error:
    raise StorageError(
      f"{out} cannot be written: {reason(error)}: choose another --out or make room"
    ) from error
  finally:
    for temporary in partial:
      temporary.unlink(missing_ok=True)


def _run(flags: argparse.Namespace) -> None:
  """Exports what the command line says."""
  files = export(
    flags.member,
    flags.to,
    flags.out,
    overwrite=flags.overwrite,
    size=parse_size(flags.size),
    images=flags.images,
    trust_code=flags.trust_code,
  )
  size = files[0].stat().st_size
  print(f"wrote {files[0]} ({size / 1e6:.1f} MB), {files[1].name} and {files[2].name}")


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill export",
    description="Export one trained network as a file for others, with a card for "
    "programs (OUT.json) and one for people (OUT.md).",
    epilog="example: python -m jaxdistill export runs/digits/members/convnet.0/best "
    "--to=safetensors --out=convnet.safetensors",
  )
  parser.add_argument(
    "member",
    metavar="MEMBER",
    help="members/<member>/best or last of a run, or an exported safetensors file",
  )
  parser.add_argument("--to", required=True, choices=list(FORMATS), help="format")
  parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
  parser.add_argument(
    "--overwrite", action="store_true", help="replace files that are there"
  )
  parser.add_argument(
    "--size",
    default="",
    metavar="HxW",
    help="size of the images; default: that of the training",
  )
  parser.add_argument(
    "--images",
    default="uint8",
    choices=_INPUTS,
    help="what a program of stablehlo or onnx takes, float32 in [0, 1]; default: "
    "%(default)s",
  )
  parser.add_argument(
    "--trust-code",
    action="store_true",
    help="import the module of a network of your own",
  )
  flags = parser.parse_args(argv)
  return run_command(lambda: _run(flags))
