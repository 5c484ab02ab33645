"""The model card for people, beside an exported network."""

from collections.abc import Mapping
from typing import Any

from jaxdistill.tools import _twins

_MOST_CLASSES = 20


def text(file: str, card: Mapping[str, Any]) -> str:
  """Returns a model card in Markdown.

  Args:
    file: name of the exported file.
    card: what is in the card for programs.
  """
  parts = [
    f"# {file}\n\n{_summary(card)}",
    f"## Accuracy\n\n{_accuracy(card)}",
    f"## Images\n\n{_images(card)}",
    f"## Classes\n\n{_classes(card)}",
    f"## Training\n\n{_training(card)}",
    f"## Loading\n\n{_loading(file, card)}",
    f"## Licence\n\n{_licence(card)}",
  ]
  return "\n\n".join(parts) + "\n"


def _keys(section: Mapping[str, Any]) -> str:
  """Returns the keys of a section of the config in a line."""
  shown = [f"`{key}={value}`" for key, value in section.items() if value is not None]
  return ", ".join(shown)


def _summary(card: Mapping[str, Any]) -> str:
  keys = dict(card["model"])
  name = keys.pop("model")
  line = f"An image classifier, `{name}`"
  if keys:
    line += f" ({_keys(keys)})"
  line += f", {card['num_classes']} classes, {card['parameters']:,} parameters"
  return f"{line}, trained with jaxdistill and exported as {card['format']}."


def _accuracy(card: Mapping[str, Any]) -> str:
  which = {
    "best": "the best evaluation",
    "last": "the last evaluation",
  }
  of = which.get(card["which"] or "", "an evaluation")
  if card["which"] == "best" and card["select_on"]:
    of += f", chosen on the {card['select_on']} split"
  rows = ["| measure | test split |", "|---|---|"]
  for measure, value in (card["metrics"] or {}).items():
    rows.append(f"| {measure} | {_number(value)} |")
  table = "\n".join(rows)
  return f"At step {card['step']}, {of}; fractions of 1, losses in nats.\n\n{table}"


def _number(value: Any) -> str:
  return f"{value:.4f}" if isinstance(value, float) else str(value)


def _images(card: Mapping[str, Any]) -> str:
  height, width, _ = card["image_shape"]
  mean = ", ".join(f"{value:.6g}" for value in card["mean"])
  std = ", ".join(f"{value:.6g}" for value in card["std"])
  line = (
    f"RGB, {height}x{width} pixels. Pixels in [0, 1] are normalised per channel: the "
    f"mean {mean} is subtracted, then divided by {std}."
  )
  if card.get("input"):
    line += f" The program does so itself: it takes {card['input']}."
  return line


def _classes(card: Mapping[str, Any]) -> str:
  names = card["class_names"]
  if not names:
    return f"Numbers from 0 to {card['num_classes'] - 1}; the data set has no names."
  shown = ", ".join(names[:_MOST_CLASSES])
  if len(names) > _MOST_CLASSES:
    shown += f" and {len(names) - _MOST_CLASSES} more, all of them in the JSON file"
  return f"In this order: {shown}."


def _training(card: Mapping[str, Any]) -> str:
  training = card["training"]
  if not training:
    return "Not known: the member was exported without its run's `config.json`."
  lines = [
    f"- Data: `{training['data']}`",
    f"- Member `{card['member']}` of a cohort of {training['members']}, seed "
    f"{training['seed']}",
    f"- Digest of the recipe: `{training['config_digest']}`",
  ]
  for section, values in training["recipe"].items():
    if isinstance(values, Mapping):
      values = _keys(values)
    lines.append(f"- {section}: {values}")
  versions = ", ".join(f"{name} {v}" for name, v in training["versions"].items())
  lines.append(f"- Versions: {versions}")
  return "\n".join(lines)


def _loading(file: str, card: Mapping[str, Any]) -> str:
  if card["format"] == "safetensors":
    ours = f'member = jaxdistill.load("{file}")'
    return f"{_torch(file, card)}\n\nIn JAX:\n\n```python\n{ours}\n```"
  if card["format"] == "flax":
    lines = [
      "import flax.serialization",
      f'data = open("{file}", "rb").read()',
      "variables = flax.serialization.msgpack_restore(data)",
    ]
  elif card["format"] == "stablehlo":
    lines = [
      "import jax.export",
      f'program = jax.export.deserialize(bytearray(open("{file}", "rb").read()))',
      "logits = program.call(images)",
    ]
  else:
    lines = [
      "import onnxruntime",
      f'session = onnxruntime.InferenceSession("{file}")',
      "(logits,) = session.run(None, {session.get_inputs()[0].name: images})",
    ]
  return "```python\n" + "\n".join(lines) + "\n```"


def _torch(file: str, card: Mapping[str, Any]) -> str:
  """Returns how PyTorch loads a safetensors file."""
  side = card["image_shape"][0]
  twin = _twins.find(card["model"], card["num_classes"], side)
  if twin is None:
    return (
      "Neither torchvision nor timm has this network in this form; the names of the "
      "tensors are those of the code that the network was published with."
    )
  lines = [
    f"import safetensors.torch, torch, {twin.module}",
    *twin.lines,
    f'model.load_state_dict(safetensors.torch.load_file("{file}"), strict=True)',
    "model.eval()",
  ]
  code = "\n".join(lines)
  return f"In PyTorch:\n\n```python\n{code}\n```"


def _licence(card: Mapping[str, Any]) -> str:
  training = card["training"]
  about = ["whoever trained the weights states their licence here"]
  if training:
    about.append(f"the terms of the data set `{training['data']}` may bear on it")
    if training["init"]:
      about.append(f"so may those of the weights it started from, {training['init']}")
  return f"Not stated: {'; '.join(about)}."
