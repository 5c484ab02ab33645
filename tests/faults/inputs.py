"""Damaged data sets and weights: refused in one line, or read as what they say."""

from collections.abc import Iterator
import contextlib
import hashlib
import json
from pathlib import Path
import resource
import shutil
import signal
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxdistill.core import registry
from jaxdistill.run import manifest, member, pretrained
from tests.faults import malformed
from tests.faults.mutations import Verdict, mutate_file
from tests.helpers import data_files

# What carries a checksum of its content may not be read as anything else.
CHECKED = ("archive", "npz", "tfds", "tar members")
VALUES = ("npz headers", "npz values")

# Generous, as another process may have the processor.
MOST_SECONDS = 5
MOST_KILOBYTES = 2**20


class Hangs(BaseException):
  """A reader does not come back; no reader catches this."""


@contextlib.contextmanager
def _bounded(verdict: Verdict, what: str, root: Path) -> Iterator[None]:
  """Watches the time and the memory of a reader, and that it writes nothing."""

  def stop(*_):
    raise Hangs

  listing = sorted(root.rglob("*"))
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  start = time.monotonic()
  previous = signal.signal(signal.SIGALRM, stop)
  signal.alarm(4 * MOST_SECONDS)
  try:
    yield
  except Hangs:
    pass
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
  seconds = time.monotonic() - start
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
  if seconds > MOST_SECONDS:
    verdict.wrong.append(f"{what}: took {seconds:.1f} s")
  if grown > MOST_KILOBYTES:
    verdict.wrong.append(f"{what}: took {grown // 1024} MB")
  if sorted(root.rglob("*")) != listing:
    verdict.wrong.append(f"{what}: wrote something")


# Data sets ----------------------------------------------------------------------------


def _arrays(rng):
  sizes = {"train": data_files.TRAIN, "test": data_files.TEST}
  arrays = {}
  for split, size in sizes.items():
    shape = (size, 32, 32, 3)
    arrays[f"images_{split}"] = rng.integers(0, 256, shape, np.uint8)
    arrays[f"labels_{split}"] = rng.integers(0, 10, size)
  return arrays


def _damage(rng, root: Path) -> str:
  """Damages the bytes of a file."""
  files = sorted(path for path in root.rglob("*") if path.is_file())
  file = malformed.pick(rng, files)
  mutate_file(file, rng)
  return f"damage in {file.relative_to(root)}"


def _displace(rng, root: Path) -> str:
  """Puts something else in the place of a file or a folder."""
  path = malformed.pick(rng, sorted(root.rglob("*")))
  name = path.relative_to(root)
  return f"a {malformed.replace(path, rng)} in place of {name}"


def _problem(found) -> str:
  """Tells what a data set must not be, whatever it was read from."""
  for split in (found.train, found.test):
    image, label = split
    if image.dtype != np.uint8 or image.shape[1:] != (32, 32, 3):
      return "no images"
    if label.dtype != np.int32 or label.shape != image.shape[:1]:
      return "no labels"
    if label.min() < 0 or label.max() >= found.num_classes:
      return "labels out of range"
  return ""


def _rows(split) -> list[bytes]:
  """Returns each example as bytes."""
  pairs = zip(split.image, split.label, strict=True)
  return [image.tobytes() + label.tobytes() for image, label in pairs]


def _difference(found, expected, in_order: bool) -> str:
  """Tells which split is another one."""
  for split in ("train", "test"):
    was = _rows(getattr(expected, split))
    now = _rows(getattr(found, split))
    if not in_order:
      was.sort()
      now.sort()
    if was != now:
      return f"another {split} split"
  return ""


def fuzz_data(count: int, seed: int, directory: Path) -> Verdict:
  """Damages one file of a data set at a time, in every layout and way in turn."""
  rng = np.random.default_rng(seed)
  arrays = _arrays(rng)
  layouts = {}
  for number, (name, write) in enumerate(data_files.LAYOUTS.items()):
    layouts[name] = directory / str(number)
    layouts[name].mkdir()
    write(layouts[name], "cifar100", arrays)
  intact = {name: data_files.load("cifar100", root) for name, root in layouts.items()}
  verdict = Verdict()
  root = directory / "damaged"
  for number in range(count):
    way = number % 3
    name = list(layouts)[number // 3 % len(layouts)]
    kind = list(malformed.KINDS)[number // 3 % len(malformed.KINDS)]
    if way == 2:
      name = "tfds tfrecord" if kind == "tfds tables" else "malformed"
    if name in layouts:
      shutil.copytree(layouts[name], root)
    else:
      root.mkdir()
    if way == 0:
      what = _damage(rng, root)
    elif way == 1:
      what = _displace(rng, root)
    else:
      malformed.KINDS[kind](rng, root, arrays)
      what = kind

    what = f"{number}: {name}, {what}"
    is_checked = any(word in what for word in CHECKED)
    if any(word in what for word in VALUES):
      is_checked = False

    # Without the feature `id`, the order is that of the files.
    in_order = "tfds tables" not in what

    def accept(found, is_checked=is_checked, in_order=in_order):
      problem = _problem(found)
      if problem or not is_checked:
        return problem
      return _difference(found, intact["npz"], in_order)

    with _bounded(verdict, what, root):
      verdict.read(what, lambda: data_files.load("cifar100", root), accept)
    shutil.rmtree(root)
  return verdict


# Weights ------------------------------------------------------------------------------

DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "I8", "U64", "BOOL", "C64")


def write_safetensors(path: Path, header: bytes, data: bytes, length: int) -> None:
  path.write_bytes(struct.pack("<Q", length % 2**64) + header + data)


def _malformed_weights(rng, path: Path) -> str:
  """Rewrites the header of a safetensors file; returns how."""
  content = path.read_bytes()
  size = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + size])
  data = content[8 + size :]
  name = malformed.pick(rng, list(header))
  kind = malformed.pick(
    rng, ("length", "value", "dtype", "counter", "name", "twice", "offsets", "text")
  )
  length = None
  text = None
  if kind == "length":
    length = malformed.pick(rng, [0, 1, size - 1, size + 1, 10**8, 2**63, -1])
  elif kind == "value":
    header = malformed.change_value(rng, header)
  elif kind == "dtype":
    header[name]["dtype"] = malformed.pick(rng, DTYPES)
  elif kind == "counter":
    entry = {**header[name], "dtype": malformed.pick(rng, DTYPES)}
    header[f"{name}.num_batches_tracked"] = entry
    header.pop(name)
  elif kind == "name":
    header[malformed.pick(rng, malformed.NAMES)] = header.pop(name)
  elif kind == "twice":
    again = json.dumps({name: header[name]})
    text = json.dumps(header)[:-1] + ", " + again[1:]
  elif kind == "offsets":
    start, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = malformed.pick(
      rng, [[end, start], [start, end + 4], [start - 4, end], [0, end - start], [start]]
    )
  else:
    text = malformed.pick(rng, ["", "[]", "1", "[" * 10_000, "{" * 10_000, '{"a":NaN}'])
  encoded = (text if text is not None else json.dumps(header)).encode()
  if length is None:
    length = len(encoded)
  write_safetensors(path, encoded, data, length)
  return kind


def _malformed_member(rng, path: Path) -> str:
  """Changes the manifest of a member, and hashes it again, as anybody can."""
  record = json.loads((path / manifest.MANIFEST).read_text())
  contents = malformed.change_value(rng, record["manifest"])
  text = json.dumps(contents, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  manifest.write_json(
    path / manifest.MANIFEST, {"manifest": contents, "sha256": digest}
  )
  return "another manifest"


def fuzz_weights(count: int, seed: int, directory: Path) -> Verdict:
  """Damages a safetensors file, or the directory of a member."""
  rng = np.random.default_rng(seed)
  model = registry.resolve("models", "small.convnet", num_classes=3, width=4)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  intact = directory / "intact"
  safetensors.numpy.save_file(
    pretrained.to_published(variables), directory / "w.safetensors"
  )
  intact.mkdir()
  (directory / "w.safetensors").rename(intact / "w.safetensors")
  member.save(
    intact / "m",
    variables,
    {
      "step": 3,
      "metrics": {"top1": 0.5},
      "model": {"model": "small.convnet", "width": 4},
      "dtype": "float32",
      "num_classes": 3,
      "class_names": ["a", "b", "c"],
      "mean": [0.5, 0.5, 0.5],
      "std": [0.2, 0.2, 0.2],
    },
  )
  ways = ("damage", "header", "place", "member", "member's damage", "member's place")
  verdict = Verdict()
  root = directory / "damaged"
  for number in range(count):
    way = ways[number % len(ways)]
    shutil.copytree(intact, root)
    file = root / "w.safetensors"
    if way == "damage":
      mutate_file(file, rng)
    elif way == "header":
      way = f"header, {_malformed_weights(rng, file)}"
    elif way == "place":
      way = f"a {malformed.replace(file, rng)} in place of it"
    elif way == "member":
      way = f"member, {_malformed_member(rng, root / 'm')}"
    elif way == "member's damage":
      way = f"member, {_damage(rng, root / 'm')}"
    else:
      way = f"member, {_displace(rng, root / 'm')}"

    def accept(weights):
      # The format has no checksum: other numbers are read, but finite ones only.
      finite = [np.isfinite(array).all() for array in weights.arrays.values()]
      return "" if all(finite) else "weights that are not finite"

    def accept_member(found):
      same = jax.tree.structure(found.variables) == jax.tree.structure(variables)
      return "" if same else "another tree"

    path = root / "m" if way.startswith("member") else file
    what = f"weights {number}, {way}"
    with _bounded(verdict, what, root):
      verdict.read(
        what,
        lambda path=path: pretrained.load(str(path), variables, num_classes=3),
        accept,
      )
    if path.name == "m":
      what = f"member {number}, {way}"
      with _bounded(verdict, what, root):
        verdict.read(what, lambda path=path: member.load(path), accept_member)
    shutil.rmtree(root)
  return verdict
