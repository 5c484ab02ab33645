"""What each member's images are normalised with.

In this order: what the config says of its group, what the run measured that its weights
are from, what the data set says. Each network thus sees images as it knows them;
augmentation, the colours that it fills in included, comes before and is the data set's
for all.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdistill.core.method import GroupSpec
from jaxdistill.errors import require
from jaxdistill.inputs.normalize import Channels, Normalization
from jaxdistill.run.pretrained import InitialWeights
from jaxdistill.run.sections import ConfigDict


def of_members(
  config: ConfigDict,
  specs: Sequence[GroupSpec],
  of_data: Normalization,
  weights: Mapping[str, Sequence[InitialWeights]],
) -> tuple[dict[str, Normalization], list[str]]:
  """Decides what every member's images are normalised with.

  Args:
    config: the run's.
    specs: the groups, in member order.
    of_data: the data set's.
    weights: group -> what each member starts from, for groups that start from files.

  Returns:
    (member -> its statistics, in member order; a line for every group that starts from
    weights of elsewhere or has statistics of its own).

  Raises:
    ConfigError: for one of `mean` and `std` without the other.
  """
  found = {}
  notes = []
  for spec in specs:
    group = config.cohort[spec.name]
    require(
      bool(group.mean) == bool(group.std),
      f"cohort.{spec.name}: mean and std go together, got mean={tuple(group.mean)} and "
      f"std={tuple(group.std)}: give both or neither",
    )
    files = weights.get(spec.name, [None] * spec.size)
    for member, file in zip(spec.members, files, strict=True):
      if group.mean:
        found[member] = Normalization(_floats(group.mean), _floats(group.std))
      elif file is not None and file.normalization:
        found[member] = file.normalization
      else:
        found[member] = of_data
    own = {member: found[member] for member in spec.members}
    notes += _describe(spec, own, of_data, given=bool(group.mean), files=files)
  return found, notes


def as_channels(members: Mapping[str, Normalization]) -> dict[str, Channels]:
  """Returns {"mean": ..., "std": ...} for all members.

  Three numbers each if all members agree, else f32[M, 1, 1, 1, 3].
  """
  distinct = list(dict.fromkeys(members.values()))
  if len(distinct) == 1:
    return {"mean": distinct[0].mean, "std": distinct[0].std}
  shape = (len(members), 1, 1, 1, 3)
  mean = np.array([each.mean for each in members.values()], np.float32)
  std = np.array([each.std for each in members.values()], np.float32)
  return {"mean": mean.reshape(shape), "std": std.reshape(shape)}


def _floats(values: Sequence[float]) -> tuple[float, ...]:
  return tuple(float(value) for value in values)


def _describe(
  spec: GroupSpec,
  own: Mapping[str, Normalization],
  of_data: Normalization,
  *,
  given: bool,
  files: Sequence[InitialWeights | None],
) -> list[str]:
  """Returns the lines about the statistics of one group.

  Args:
    spec: the group.
    own: member -> its statistics.
    of_data: the data set's.
    given: whether the config says them.
    files: what each member starts from.
  """
  if given:
    numbers = _numbers(own[spec.members[0]])
    return [f"{spec.name} normalises its images with {numbers}, as its config says"]
  lines = []
  for member, file in zip(spec.members, files, strict=True):
    if file is None:
      continue
    if not file.normalization:
      lines.append(
        f"{spec.name} normalises its images with the data set's mean and std: if its "
        f"weights were trained with others, set cohort.{spec.name}.mean and .std"
      )
    elif file.normalization != of_data:
      numbers = _numbers(file.normalization)
      lines.append(
        f"{member} normalises its images with {numbers}, as the run did that its "
        "weights are from"
      )
  return list(dict.fromkeys(lines))


def _numbers(statistics: Normalization) -> str:
  """Returns statistics as text, with three digits."""
  mean = ", ".join(f"{value:.3g}" for value in statistics.mean)
  std = ", ".join(f"{value:.3g}" for value in statistics.std)
  return f"mean {mean} and std {std}"
