"""Measures what a run has trained: all of it, or one member, in full.

The newest checkpoint of a run has its members and what its method has trained beside
them; `members/` has what is exported, and no more. The former is measured by the
program by which the run measured itself, so that the numbers are the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from jaxdistill.core import registry
from jaxdistill.core.method import GroupSpec, Predict
from jaxdistill.core.types import Group, MethodState, TrainState
from jaxdistill.data import Dataset, Split, Streamed
from jaxdistill.engine import details, sharding
from jaxdistill.engine.cohort import member_names
from jaxdistill.engine.evaluate import (
  collect,
  compile_eval,
  evaluate,
  make_eval_step,
  make_scores,
)
from jaxdistill.engine.measures import CLASSIFICATION, Row
from jaxdistill.engine.resident import (
  Delivered,
  Part,
  Resident,
  delivered_shapes,
  put_resident,
)
from jaxdistill.engine.retrieval import retrieval
from jaxdistill.errors import CheckpointError, require, require_choice
from jaxdistill.inputs.normalize import Normalization
from jaxdistill.run import member, normalization
from jaxdistill.run.build import (
  MAPPING,
  batch_size_of_evaluation,
  build,
  read_dataset,
  require_feature,
)
from jaxdistill.run.checkpoint import Checkpoints
from jaxdistill.run.config import (
  ConfigDict,
  apply_overrides,
  check_config,
  completed,
  config_differences,
  default,
  flatten,
)
from jaxdistill.run.console import Console
from jaxdistill.run.feed import Feeds
from jaxdistill.run.jax_settings import keep_programs, matmul_precision
from jaxdistill.run.manifest import MANIFEST
from jaxdistill.run.member import Member
from jaxdistill.run.residency import fitting, read_whole
from jaxdistill.run.room import resident_limit, shortage_explained
from jaxdistill.run.workdir import at_rest, read_record, versions

FORMAT = 1
"""Of what is returned; raised when a later version could misread it."""

WEIGHTS = ("last", "best")
SPLITS = ("test", "holdout")

DEVIATIONS = tuple(k / 100 for k in range(16))
"""Of the noise, in units of pixels in [0, 1]: those of KDCL's figure 4."""

DRAWS = 10
"""Of the noise, at every deviation."""

ENSEMBLE = "ensemble"
"""Name of the ensemble of all members that were loaded from their files."""

# Keys of a config whose values may name modules to be imported.
_COMPONENTS = ("name", "model", "ops", "schedule")


def evaluate_run(
  path: str | os.PathLike,
  *,
  weights: str = "last",
  noise: bool = False,
  ensembles: Iterable[Sequence[str]] = (),
  data_changes: Sequence[str] = (),
  split: str = "test",
  trust_code: bool = False,
  quiet: bool = False,
) -> dict[str, Any]:
  """Measures all members of a run and what its method predicts beside them.

  The last weights, on the run's own data, are those of its newest intact checkpoint.
  Otherwise the members in `members/` are measured, and their common ensemble in the
  place of the method's predictions.

  Args:
    path: workdir of the run, which is not written to.
    weights: "last" or "best", those of the step that was chosen for each member.
    noise: also measure under Gaussian noise, which takes 150 passes over the data.
    ensembles: members of which the mean of the probabilities is measured, for each
      ensemble.
    data_changes: `key=value` of the config's section `data`.
    split: "test" or "holdout".
    trust_code: whether modules from outside of this package may be imported because the
      run names them.
    quiet: print nothing.

  Returns:
    What `docs/evaluating.md` says of `evaluation.json`.

  Raises:
    JaxdistillError: one line about what is wrong.
  """
  path = Path(path)
  require_choice(weights=(weights, WEIGHTS), split=(split, SPLITS))
  _require_run(path)
  with at_rest(path):
    record = read_record(path / "config.json")
    data = _data_of_run(record, data_changes, split, trust_code)
    wanted = _Wanted(noise, tuple(ensembles), split, quiet)
    subject = None
    if weights == "last" and data.is_own:
      subject = _from_checkpoint(path, record, data)
    if subject is None:
      subject = _from_files(path, weights, record, data, trust_code)
    return _measure(subject, data, wanted) | {
      "source": "run",
      "config_digest": record["config_digest"],
      "weights": weights,
    }


def evaluate_member(
  path: str | os.PathLike,
  *,
  noise: bool = False,
  data_changes: Sequence[str] = (),
  split: str = "test",
  trust_code: bool = False,
  quiet: bool = False,
) -> dict[str, Any]:
  """Measures one member of a run, or an exported one.

  Args:
    path: `members/<member>/best` or `last` of a run, or a safetensors file with its
      card, for which the data have to be named.
    noise: see `evaluate_run`.
    data_changes: `key=value` of the section `data`: of the member's run, if it is in
      one.
    split: "test" or, in a run, "holdout".
    trust_code: see `evaluate_run`.
    quiet: print nothing.

  Returns:
    As `evaluate_run`, of one member.

  Raises:
    JaxdistillError: one line about what is wrong.
  """
  path = Path(path)
  require_choice(split=(split, SPLITS))
  loaded = member.load(path, trust_code=trust_code)
  record = _record_around(path)
  name = path.name.partition(".")[0]
  weights = "last"
  digest = None
  if path.is_dir():
    place = path.absolute()
    name = place.parent.name
    weights = place.name
  if record:
    digest = record["config_digest"]
    data = _data_of_run(record, data_changes, split, trust_code)
  else:
    data = _data_named(path, data_changes, split)
  subject = _of_members({name: loaded}, data)
  wanted = _Wanted(noise, (), split, quiet)
  return _measure(subject, data, wanted) | {
    "source": "member",
    "config_digest": digest,
    "weights": weights,
  }


def is_run(path: Path) -> bool:
  """Tells whether a path is the workdir of a run, and not of a member."""
  return os.path.isdir(path) and not os.path.lexists(path / MANIFEST)


class _Wanted(NamedTuple):
  """What is to be measured.

  Attributes:
    noise: whether under noise as well.
    ensembles: members of each.
    split: "test" or "holdout".
    quiet: print nothing.
  """

  noise: bool
  ensembles: tuple[Sequence[str], ...]
  split: str
  quiet: bool


class _Data(NamedTuple):
  """The data that members are measured on.

  Attributes:
    config: that names them.
    dataset: as it was read.
    is_own: whether the run was trained on the same.
    changes: what was changed in the run's config.
  """

  config: ConfigDict
  dataset: Dataset
  is_own: bool
  changes: tuple[str, ...]


class _Subject(NamedTuple):
  """A cohort that is measured.

  Attributes:
    names: of the members in the groups -> what they are called.
    specs: the groups, in member order.
    state: of the cohort and the method.
    predict: predictions beside the members'; None for the ensemble of all of them.
    normalizations: of the members, in member order.
    mesh: devices.
    batch_size: of an evaluation, a multiple of the devices that share it.
    step: newest of the members' steps.
    is_itself: whether it is the run's own state, which is measured by the same program.
  """

  names: dict[str, str]
  specs: tuple[GroupSpec, ...]
  state: TrainState
  predict: Predict | None
  normalizations: dict[str, Normalization]
  mesh: Mesh
  batch_size: int
  step: int
  is_itself: bool


# What is read.


def _require_run(path: Path) -> None:
  """Raises CheckpointError unless a path is a run that has been evaluated."""
  if os.path.lexists(path / MANIFEST):
    raise CheckpointError(f"{path} is a member, not a run: name the run that it is in")
  if not os.path.isdir(path):
    raise CheckpointError(f"{path}: there is no such directory: name a run's workdir")
  if not os.path.lexists(path / "config.json"):
    raise CheckpointError(
      f"{path} is no run: it has no config.json: name the workdir of a run, or "
      "members/<member>/best in it"
    )
  if not member.members_of(path):
    raise CheckpointError(
      f"{path} is a run without a finished evaluation, so that it has no members yet: "
      "train it on"
    )


def _record_around(path: Path) -> dict[str, Any] | None:
  """Returns what is in `config.json` of the run that a member is in, None outside."""
  if not path.is_dir():
    return None
  # runs/digits/members/convnet.0/best
  file = path.absolute().parent.parent.parent / "config.json"
  if not file.is_file():
    return None
  return read_record(file)


def _data_of_run(
  record: Mapping[str, Any], changes: Sequence[str], split: str, trust_code: bool
) -> _Data:
  """Reads a run's data, with some keys changed.

  Args:
    record: from `read_record`.
    changes: `key=value` of the section `data`.
    split: that is measured.
    trust_code: whether the run may name modules from outside.
  """
  if not trust_code:
    _require_inside(record["config"], changes)
  config = completed(record["config"])
  before = config.copy_and_resolve_references()
  _change(config, changes)
  is_own = not config_differences(before, config)
  if not is_own and split != "holdout":
    # Nothing of them is trained on.
    config.holdout = 0.0
  check_config(config)
  return _Data(config, read_dataset(config), is_own, tuple(changes))


def _data_named(path: Path, changes: Sequence[str], split: str) -> _Data:
  """Reads the data that the command line names."""
  names = [change for change in changes if change.startswith("name=")]
  require(
    bool(names),
    f"{path} is in no run, which would say what it is measured on: name the data: "
    "--data.name=digits",
  )
  require(
    split == "test",
    f"split=holdout: {path} is in no run, which would say what it holds out: measure "
    "it on split=test",
  )
  name = names[-1].removeprefix("name=")
  # The method is not used: any will do.
  method = registry.list_available("methods")[0]
  config = default(name, method)
  _change(config, changes)
  return _Data(config, read_dataset(config), is_own=False, changes=tuple(changes))


def _change(config: ConfigDict, changes: Sequence[str]) -> None:
  """Sets keys of the section `data`."""
  apply_overrides(config, [f"data.{change}" for change in changes])


def _require_inside(config: Mapping[str, Any], changes: Sequence[str]) -> None:
  """Raises CheckpointError for a run that names modules from outside of the package."""
  is_named = any(change.startswith("name=") for change in changes)
  for key, value in flatten(config).items():
    if key.rpartition(".")[2] not in _COMPONENTS or (key == "data.name" and is_named):
      continue
    names = value if isinstance(value, list) else [value]
    for name in names:
      if ":" in str(name):
        raise CheckpointError(
          f"the run names {key}={name!r}, whose module would be imported: pass "
          "trust_code=True (--trust-code) if you trust it"
        )


def _from_checkpoint(
  path: Path, record: Mapping[str, Any], data: _Data
) -> _Subject | None:
  """Returns the newest state of a run; None if it keeps no checkpoint.

  Args:
    path: workdir.
    record: from `read_record`.
    data: the run's own.
  """
  checkpoints = Checkpoints(path / "checkpoints")
  if not checkpoints.exist():
    return None
  # Any of them may be there: of a run that goes on, none has its last files.
  manifests = {}
  for found in member.members_of(path):
    manifests[Path(found).parent.name] = member.read_manifest(path / found)
  _require_fits(path, next(iter(manifests.values())), data.dataset)
  config = data.config.copy_and_resolve_references()
  _take_devices(config)
  for name, group in config.cohort.items():
    members = [f"{name}.{k}" for k in range(group.members)]
    # Weights that it has started from need not be there any more.
    if all(each in manifests for each in members):
      group.init = ""
  experiment = build(config, data.dataset)
  restored = checkpoints.restore(experiment.saved_state, set(record["digests"]))
  assert restored is not None, "there are checkpoints"
  state, contents = restored
  normalizations = dict(experiment.normalizations)
  for name in normalizations:
    if name in manifests:
      normalizations[name] = _normalization(manifests[name])
  return _Subject(
    names={name: name for name in experiment.members},
    specs=experiment.specs,
    state=state,
    predict=experiment.method.predict,
    normalizations=normalizations,
    mesh=experiment.mesh,
    batch_size=experiment.eval_batch_size,
    step=contents["step"],
    is_itself=True,
  )


def _take_devices(config: ConfigDict) -> None:
  """Takes as many devices as the run has had, where there are as many."""
  available = jax.device_count()
  most = min(config.mesh.devices or available, available)
  for member_parts in (config.mesh.member, 1):
    for number in range(most, 0, -1):
      if number % member_parts:
        continue
      if config.batch_size % (number // member_parts) == 0:
        config.mesh.update({"devices": number, "member": member_parts})
        return


def _from_files(
  path: Path,
  weights: str,
  record: Mapping[str, Any],
  data: _Data,
  trust_code: bool,
) -> _Subject:
  """Returns the members of a run that are in its folder `members`."""
  members = {}
  for name in _in_member_order(path, weights):
    place = path / "members" / name / weights
    members[name] = member.load(place, trust_code=trust_code)
  if not members:
    raise CheckpointError(
      f"{path} has no members/<member>/{weights}, which a run writes at its end: train "
      "it on, or take weights=best"
    )
  return _of_members(members, data)


def _in_member_order(path: Path, weights: str) -> list[str]:
  """Returns the members of a run, group by group: convnet.2 before convnet.10."""
  names = []
  for found in member.members_of(path):
    if Path(found).name == weights:
      names.append(Path(found).parent.name)

  def order(name: str) -> tuple[str, int, str]:
    group, _, number = name.rpartition(".")
    return group, len(number), number

  return sorted(names, key=order)


def _of_members(members: Mapping[str, Member], data: _Data) -> _Subject:
  """Returns loaded members as a cohort.

  Args:
    members: name -> member; those of a group stand together.
    data: that they are measured on.

  Raises:
    ConfigError: if they do not fit the data.
  """
  # Those of one architecture are run together.
  stacks: dict[str, dict[str, Member]] = {}
  for name, each in members.items():
    _require_fits(name, each.manifest, data.dataset)
    network = json.dumps([each.manifest["model"], each.manifest["dtype"]])
    group = name.rpartition(".")[0]
    stacks.setdefault(f"{group} {network}", {})[name] = each

  mesh = sharding.make_mesh()
  mapping = MAPPING.get(sharding.platform_of(mesh), "vmap")
  specs = []
  cohort = {}
  names = {}
  normalizations = {}
  for number, stack in enumerate(stacks.values()):
    first = next(iter(stack.values()))
    spec = GroupSpec(
      name=f"{number:04d}",
      model=first.model,
      size=len(stack),
      tx=optax.identity(),
      mapping=mapping,
    )
    specs.append(spec)
    variables = [each.variables for each in stack.values()]
    stacked = jax.tree.map(lambda *each: np.stack(each), *variables)
    params = stacked.pop("params")
    held = jnp.zeros(len(stack), jnp.int32)
    cohort[spec.name] = Group(params=params, stats=stacked, opt={}, held=held)
    for own, (name, each) in zip(spec.members, stack.items(), strict=True):
      names[own] = name
      normalizations[own] = _normalization(each.manifest)
  if data.dataset.ranking:
    task = retrieval(data.dataset.ranking)
    require_feature(specs, cohort, data.dataset, task.feature)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    key=jax.random.key(0),
    cohort=sharding.put_replicated(mesh, cohort),
    method=MethodState(modules={}, memory={}),
  )
  return _Subject(
    names=names,
    specs=tuple(specs),
    state=state,
    predict=None,
    normalizations=normalizations,
    mesh=mesh,
    batch_size=batch_size_of_evaluation(data.config, data.dataset, mesh),
    step=max(each.manifest.get("step", 0) for each in members.values()),
    is_itself=False,
  )


def _normalization(manifest: Mapping[str, Any]) -> Normalization:
  return Normalization(tuple(manifest["mean"]), tuple(manifest["std"]))


def _require_fits(
  what: Path | str, manifest: Mapping[str, Any], dataset: Dataset
) -> None:
  """Raises ConfigError for data of other classes or sizes than a member knows."""
  classes = manifest["num_classes"]
  # What is searched may show persons that nobody was trained on.
  require(
    bool(dataset.ranking) or classes == dataset.num_classes,
    f"{what} tells {classes} classes apart, and {dataset.name} has "
    f"{dataset.num_classes}: choose other data with --data.name=...",
  )
  shape = manifest.get("image_shape")
  height, width, _ = dataset.test.shape
  require(
    shape is None or tuple(shape) == tuple(dataset.test.shape),
    f"{what} was trained on images of {'x'.join(map(str, (shape or ())[:2]))} pixels, "
    f"and those of {dataset.name} have {height}x{width}: choose other data or another "
    "size of them",
  )


# What is measured.


class _Passes:
  """Passes over a split, which lives on the devices if there is room for it."""

  def __init__(self, subject: _Subject, name: str, split: Split | Streamed):
    """Prepares; nothing is read yet."""
    self._subject = subject
    self._name = name
    self._split = split
    self._resident: Resident | None = None
    self._feeds: Feeds | None = None

  @contextlib.contextmanager
  def ready(self, resident_bytes: int, console: Console) -> Iterator[None]:
    """Reads what is read once; the threads that read the rest end with the block."""
    feeds = Feeds(self._subject.mesh, console.say)
    try:
      split = self._split
      limit = resident_limit(resident_bytes)
      if fitting({self._name: split}, limit):
        split = read_whole(self._name, split, feeds, console, _never) or split
      if isinstance(split, Split):
        self._resident = put_resident(self._subject.mesh, split.image, split.label)
      else:
        self._feeds = feeds
      yield
    finally:
      feeds.close()

  @property
  def shapes(self) -> Resident | Delivered:
    """What a step is compiled for."""
    if self._resident is not None:
      return self._resident
    subject = self._subject
    return delivered_shapes(subject.mesh, subject.batch_size, self._split.shape)

  def __len__(self) -> int:
    """Returns the batches of a pass."""
    return math.ceil(len(self._split.label) / self._subject.batch_size)

  def parts(self, advance: Callable[[], None]) -> Iterator[Part]:
    """Yields the batches of a pass.

    Args:
      advance: called after each of them.
    """
    if self._resident is not None:
      parts = self._resident.parts(self._subject.batch_size)
    else:
      assert self._feeds and isinstance(self._split, Streamed), "it is ready"
      stream = self._feeds.covered(self._name, self._split)
      parts = stream.parts(self._subject.batch_size)
    for part in parts:
      yield part
      advance()


def _never() -> bool:
  return False


def _measure(subject: _Subject, data: _Data, wanted: _Wanted) -> dict[str, Any]:
  """Measures a cohort; returns all but where it comes from."""
  console = Console(wanted.quiet)
  dataset = data.dataset
  split: Split | Streamed | None = dataset.test
  if wanted.split == "holdout":
    split = dataset.holdout
  require(
    split is not None,
    "split=holdout: the run holds no examples out: measure it on split=test",
  )
  assert split is not None
  if data.config.compilation_cache:
    warning = keep_programs()
    if warning:
      console.say(warning)
  passes = _Passes(subject, wanted.split, split)
  with (
    shortage_explained(data.config, subject.state),
    matmul_precision(data.config.matmul_precision),
    passes.ready(data.config.resident_bytes, console),
  ):
    if dataset.ranking:
      measured = _retrieval(subject, data, wanted, passes, console)
    else:
      measured = _classification(subject, data, wanted, passes, console)
  missing = len(split.label) - measured["count"]
  if missing:
    console.say(
      f"warning: {missing} examples of {wanted.split} could not be read and are left "
      "out of what is measured"
    )
  return {
    "format": FORMAT,
    "step": subject.step,
    "split": wanted.split,
    "data": dataset.name,
    "data_changes": list(data.changes),
    "left_out": missing,
    **measured,
    "versions": versions(),
  }


def _retrieval(
  subject: _Subject, data: _Data, wanted: _Wanted, passes: _Passes, console: Console
) -> dict[str, Any]:
  """Returns what members find in a gallery.

  Raises:
    ConfigError: for what is measured of classifiers only.
  """
  dataset = data.dataset
  assert dataset.ranking
  for flag, is_set in (
    ("noise", wanted.noise),
    ("ensemble", bool(wanted.ensembles)),
    ("split=holdout", wanted.split == "holdout"),
  ):
    require(
      not is_set,
      f"{flag} is of classification, and {dataset.name} is searched: leave it out",
    )
  task = retrieval(dataset.ranking)
  step = _eval_step(subject, task)
  with console.timed(f"Compiling the evaluation (batch {subject.batch_size})"):
    compiled = compile_eval(step, subject.state, passes.shapes, subject.batch_size)
  with console.counted(len(passes), "batches") as advance:
    rows, count = evaluate(
      compiled, subject.state, passes.parts(advance), subject.mesh, task
    )
  members = {}
  for own, name in subject.names.items():
    members[name] = _finite(rows[own])
  return {"count": count, "members": members}


def _eval_step(subject: _Subject, task: Any = CLASSIFICATION) -> Callable:
  """Returns the step by which a run measures itself."""
  return make_eval_step(
    subject.specs,
    subject.predict,
    mesh=subject.mesh,
    task=task,
    **normalization.as_channels(subject.normalizations),
  )


def _classification(
  subject: _Subject, data: _Data, wanted: _Wanted, passes: _Passes, console: Console
) -> dict[str, Any]:
  """Returns everything about how members classify."""
  ensembles = _ensembles(subject, wanted.ensembles)
  score = details.with_ensembles(
    make_scores(
      subject.specs,
      subject.predict,
      feature="",
      **normalization.as_channels(subject.normalizations),
    ),
    subject.specs,
    ensembles,
  )
  state, mesh = subject.state, subject.mesh
  with console.timed(f"Compiling the evaluation (batch {subject.batch_size})"):
    step = compile_eval(
      details.make_detail_step(score, mesh), state, passes.shapes, subject.batch_size
    )
    own_step = None
    if subject.is_itself:
      own_step = compile_eval(
        _eval_step(subject), state, passes.shapes, subject.batch_size
      )

  def measure(*arguments: Any) -> tuple[Any, Any]:
    own = {}
    if own_step is not None:
      own = own_step(*arguments)
    return own, step(*arguments)

  with console.counted(len(passes), "batches") as advance:
    (own, batch), count = collect(measure, state, passes.parts(advance), mesh)
  names = _all_names(subject, batch.kept, ensembles)
  result = _in_full(subject, names, data.dataset, own, batch)
  under_noise = None
  if wanted.noise:
    under_noise = _under_noise(subject, names, score, passes, console)
  return {"count": count, **result, "noise": under_noise}


def _ensembles(
  subject: _Subject, ensembles: Iterable[Sequence[str]]
) -> dict[str, tuple[str, ...]]:
  """Returns name -> members, as the groups call them, of the ensembles to measure.

  Raises:
    ConfigError: for a member that is not there, or is there twice.
  """
  known = {name: own for own, name in subject.names.items()}
  found = {}
  if subject.predict is None and len(known) > 1:
    found[ENSEMBLE] = tuple(subject.names)
  for members in ensembles:
    for name in members:
      require(
        name in known, f"ensemble: no member {name!r}{registry.nearest(name, known)}"
      )
    require(
      len(set(members)) == len(members) > 1,
      f"ensemble {','.join(members)!r}: name two members or more, each once",
    )
    found["+".join(members)] = tuple(known[name] for name in members)
  return found


def _all_names(
  subject: _Subject, measured: Iterable[str], ensembles: Iterable[str]
) -> dict[str, str]:
  """Returns what is measured -> what it is called, in the order in which it is told.

  That is members, the method's predictions, chosen ensembles. A jitted function gives
  them in the order of the alphabet.
  """
  names = dict(subject.names)
  chosen = tuple(ensembles)
  for key in measured:
    if key not in chosen:
      names.setdefault(key, key)
  for key in chosen:
    names[key] = key
  return names


def _in_full(
  subject: _Subject,
  names: Mapping[str, str],
  dataset: Dataset,
  own: Mapping[str, Mapping[str, np.ndarray]],
  batch: details.Batch,
) -> dict[str, Any]:
  """Reduces what was kept of a whole split.

  Args:
    subject: that was measured.
    names: from `_all_names`.
    dataset: it was measured on.
    own: name -> measure -> values, from the run's own program; {} without it.
    batch: of the whole split.
  """
  parts: dict[str, dict[str, Any]] = {
    "members": {},
    "predictions": {},
    "per_class": {},
    "confusions": {},
    "reliability": {},
  }
  for key, name in names.items():
    detail = details.describe(batch.kept[key], batch.label, dataset.num_classes)
    row = detail.row
    if key in own:
      row |= CLASSIFICATION.reduce(own[key])
    kind = "predictions"
    if key in subject.names:
      kind = "members"
    parts[kind][name] = _finite(row)
    parts["per_class"][name] = detail.per_class
    parts["confusions"][name] = detail.confusions
    parts["reliability"][name] = detail.reliability
  agreement = details.agreement(batch, member_names(subject.specs))
  return {
    "class_names": list(dataset.class_names),
    **parts,
    "agreement": {
      "members": list(subject.names.values()),
      "same_class": _finite(agreement.same_class),
      "kl": _finite(agreement.kl),
    },
  }


def _under_noise(
  subject: _Subject,
  names: Mapping[str, str],
  score: details.Score,
  passes: _Passes,
  console: Console,
) -> dict[str, Any]:
  """Returns accuracy and loss for every deviation of the noise, over its draws."""
  state = subject.state
  index = np.zeros(subject.batch_size, np.int32)
  step = details.make_noise_step(score, subject.mesh)
  with console.timed("Compiling the evaluation under noise"):
    compiled = step.lower(
      state.cohort, state.method, passes.shapes, index, np.float32(0), np.int32(0)
    ).compile()

  # Without noise, one draw is like the other.
  plan = [(0.0, 0)]
  for deviation in DEVIATIONS[1:]:
    plan += [(deviation, draw) for draw in range(DRAWS)]
  rows: dict[float, list[dict[str, Row]]] = {}
  with console.counted(len(plan) * len(passes), "batches under noise") as advance:
    for deviation, draw in plan:

      def measure(*arguments: Any, deviation=deviation, draw=draw) -> Any:
        return compiled(*arguments, np.float32(deviation), np.int32(draw))

      values, _ = collect(measure, state, passes.parts(advance), subject.mesh)
      rows.setdefault(deviation, []).append(details.rows_under_noise(values))

  curves: dict[str, dict[str, list[float]]] = {}
  for measure_name in ("top1", "nll"):
    means: dict[str, list[float]] = {}
    spreads: dict[str, list[float]] = {}
    for key, name in names.items():
      means[name] = []
      spreads[name] = []
      for draws in rows.values():
        drawn = np.array([each[key][measure_name] for each in draws])
        means[name].append(float(drawn.mean()))
        spreads[name].append(float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0)
    curves[measure_name] = means
    curves[f"{measure_name}_sd"] = spreads
  return {"std": list(DEVIATIONS), "draws": DRAWS, **_finite(curves)}


def _finite(value: Any) -> Any:
  """Replaces numbers that JSON cannot hold by None, anywhere inside."""
  if isinstance(value, dict):
    return {key: _finite(part) for key, part in value.items()}
  if isinstance(value, list):
    return [_finite(part) for part in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
