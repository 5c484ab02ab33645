"""Random damage to files, and what a reader may make of it."""

from pathlib import Path

import numpy as np

from jaxdistill.errors import JaxdistillError

LONGEST_MESSAGE = 300


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
  """Damages the content of a file in one of the ways that happen, or are tried."""
  kind = rng.integers(7)
  size = len(data)
  if kind == 0 or not size:
    return data + rng.bytes(int(rng.integers(1, 64)))
  if kind == 1:
    return data[: int(rng.integers(size))]
  if kind == 2:
    return b""
  start = int(rng.integers(size))
  end = min(size, start + int(rng.integers(1, 17)))
  if kind == 3:
    return data[:start] + bytes(end - start) + data[end:]
  if kind == 4:
    return data[:start] + rng.bytes(end - start) + data[end:]
  if kind == 5:
    return data[:start] + data[end:]
  flipped = bytearray(data)
  flipped[start] ^= 1 << int(rng.integers(8))
  return bytes(flipped)


def mutate_file(path: Path, rng: np.random.Generator) -> None:
  """Damages a file until it differs from what it was."""
  data = path.read_bytes()
  changed = data
  while changed == data:
    changed = mutate(data, rng)
  path.write_bytes(changed)


class Verdict:
  """Counts what readers made of damaged files, and keeps what they must not do."""

  def __init__(self):
    self.refused = 0
    self.accepted = 0
    self.wrong: list[str] = []

  def read(self, what: str, reader, accept) -> None:
    """Runs a reader.

    Args:
      what: what is read, for the report.
      reader: () -> value; it may raise a `JaxdistillError` with one short line.
      accept: value -> "" or what is wrong with having accepted it.
    """
    try:
      value = reader()
    except JaxdistillError as error:
      self.refused += 1
      text = str(error)
      if "\n" in text or len(text) > LONGEST_MESSAGE:
        self.wrong.append(f"{what}: a message of {len(text)} characters: {text[:400]}")
      return
    except Exception as error:
      self.wrong.append(f"{what}: uncaught {type(error).__name__}: {str(error)[:200]}")
      return
    self.accepted += 1
    problem = accept(value)
    if problem:
      self.wrong.append(f"{what}: silent: {problem}")

  def __str__(self) -> str:
    counts = (
      f"{self.refused} refused, {self.accepted} accepted, {len(self.wrong)} wrong"
    )
    return "\n".join([counts, *self.wrong[:20]])
