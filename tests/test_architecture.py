"""The architecture as a test: what may import what, and who may do what."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

from jaxdistill.core import registry

PACKAGE = Path(__file__).parent.parent / "jaxdistill"

# A room may import those of lower rows, and of its own row where SIDEWAYS says so.
ROOMS = [
  ["errors"],
  ["losses", "metrics"],
  ["core", "targets"],
  ["nn", "inputs", "data", "optim"],
  ["methods", "models"],
  ["engine"],
  ["run"],
  ["main", "tools"],
  ["__main__"],
]
SIDEWAYS = {"metrics": {"losses"}}
LEVEL = {room: level for level, row in enumerate(ROOMS) for room in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
  """Parts of a module's name below the package: ("run", "build")."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def own_imports(path):
  """Modules of this package that a file imports, as parts of their names."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      parts = (node.module or "").split(".")
      if parts[0] != "jaxdistill":
        continue
      for alias in node.names:
        below = (*parts[1:], alias.name)
        # A name of a module, or a module of a package?
        is_module = PACKAGE.joinpath(*below).with_suffix(".py").is_file()
        is_package = PACKAGE.joinpath(*below, "__init__.py").is_file()
        yield below if is_module or is_package else below[:-1]
    elif isinstance(node, ast.Import):
      for alias in node.names:
        parts = alias.name.split(".")
        if parts[0] == "jaxdistill":
          yield tuple(parts[1:])


def test_every_room_has_a_level():
  rooms = {module_of(path)[0] for path in FILES} - {"__init__"}
  assert rooms == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_downwards_only(path):
  room = module_of(path)[0]
  if room == "__init__":
    return
  for imported in own_imports(path):
    if not imported or imported[0] == room:
      continue
    other = imported[0]
    allowed = LEVEL[other] < LEVEL[room] or other in SIDEWAYS.get(room, ())
    assert allowed, f"{path} imports {other}, which is not below {room}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_is_private_to_a_folder_is_imported_by_its_siblings_only(path):
  module = module_of(path)
  folder = module if path.name == "__init__.py" else module[:-1]
  for imported in own_imports(path):
    for depth, part in enumerate(imported):
      if part.startswith("_") and not part.startswith("__"):
        assert imported[:depth] == folder, f"{path} imports {'.'.join(imported)}"


def test_files_import_in_no_circle():
  graph = {module_of(path): set(own_imports(path)) for path in FILES}
  done = set()

  def visit(module, trail):
    assert module not in trail, f"a circle of imports: {[*trail, module]}"
    if module in done or module not in graph:
      return
    for imported in graph[module]:
      # Importing a file runs its folder's __init__, which may import the file.
      if imported != module[: len(imported)]:
        visit(imported, [*trail, module])
    done.add(module)

  for module in graph:
    visit(module, [])


def test_methods_know_neither_networks_nor_data_nor_the_engine():
  for path in (PACKAGE / "methods").glob("*.py"):
    rooms = {imported[0] for imported in own_imports(path) if imported}
    assert not rooms & {"models", "data", "engine", "inputs", "optim"}, path


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_code_comes_from_data_and_only_the_registry_imports_by_name(path):
  banned = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
  if path.name == "_pickle.py":
    banned -= {"pickle"}  # a restricted unpickler, whose tests are in tests/data
  if path.name != "registry.py":
    banned |= {"importlib"}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = {alias.name for alias in node.names} - {"importlib.metadata"}
      assert not banned & {name.split(".")[0] for name in names}
    elif isinstance(node, ast.ImportFrom):
      assert (node.module or "").split(".")[0] not in banned
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      assert node.func.id not in {"eval", "exec", "__import__"}


def test_no_file_but_its_own_names_a_method():
  methods = {name.split(".")[0] for name in registry.list_available("methods")}
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Constant) and node.value in methods:
        assert path.stem == node.value, f"{path} names the method {node.value}"


HEAVY = (
  "flax",
  "orbax",
  "ml_collections",
  "tensorflow",
  "tensorflow_datasets",
  "array_record",
  "sklearn",
  "rich",
  "tensorboardX",
  "dm_pix",
  "matplotlib",
)


def test_losses_targets_and_metrics_import_alone():
  """In a process in which nothing heavy can be imported."""
  code = (
    f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
    "from jaxdistill import losses, targets, metrics\nimport jax.numpy as jnp\n"
    "kl = losses.kl_divergence(jnp.zeros((1, 3)), jnp.zeros((1, 3)))\n"
    "print(float(kl[0]), targets.winner(jnp.ones(2)))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    timeout=120,
    cwd=PACKAGE.parent,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.split() == ["0.0", "0"]
