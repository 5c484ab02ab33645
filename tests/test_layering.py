"""The architecture as a test: what may import what, and how long files and functions may be."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxdistill"

# Imports go down only: a module may import those of earlier rows, and of its own row where it says so.
LAYERS = [
    ["types", "errors"],
    ["protocol", "rng", "adapt", "losses", "targets", "metrics", "registry", "dataset", "convolution", "tables", "simplex"],
    ["models", "methods", "data", "augment", "optim", "pixels", "pool", "perturb"],
    ["cohort", "sharding", "views", "config"],
    ["step", "evaluate", "survey", "checkpoint", "logs", "console", "presets", "pretrained"],
    ["workdir", "build"],
    ["trainer"],
    ["main", "contact_sheet"],
]
# Within a row: whom a module may import from its own row.
SIBLINGS = {"targets": {"losses", "simplex"}, "metrics": {"losses"}, "losses": set(), "perturb": {"pixels", "pool"}, "views": set(),
            "registry": set(), "survey": {"evaluate"}, "pretrained": {"checkpoint"}}
LAYER = {name: depth for depth, row in enumerate(LAYERS) for name in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
  return path.relative_to(PACKAGE).with_suffix("").parts


def own_imports(path):
  """Modules of this package that a file imports, as tuples of parts below the package."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxdistill":
      below = tuple(node.module.split(".")[1:])
      yield from ([below] if below else [(alias.name,) for alias in node.names])
    elif isinstance(node, ast.Import):
      yield from (tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "jaxdistill")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down_only(path):
  module = module_of(path)
  if module == ("__init__",):
    return
  assert module[0] in LAYER, f"{path} has no layer: add it to LAYERS"
  for imported in own_imports(path):
    if not imported or imported[0] == "__version__":
      continue
    name = imported[0]
    if name == module[0]:
      assert imported[-1] == "layers" or len(imported) == 1, f"{path} imports its sibling {imported}"
    elif LAYER[name] == LAYER[module[0]]:
      assert name in SIBLINGS.get(module[0], set()), f"{path} imports {name} of its own layer"
    else:
      assert LAYER[name] < LAYER[module[0]], f"{path} imports {name} from above"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_are_short(path):
  text = path.read_text()
  assert text.count("\n") <= 300
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      assert node.end_lineno - node.lineno < 80, node.name


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_code_comes_from_data_and_only_the_registry_imports_by_name(path):
  banned = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
  if path.name != "registry.py":
    banned |= {"importlib"}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = {alias.name for alias in node.names} - {"importlib.metadata"}
      assert not banned & {name.split(".")[0] for name in names}
    elif isinstance(node, ast.ImportFrom):
      assert (node.module or "").split(".")[0] not in banned
    elif isinstance(node, ast.Call):
      name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
      assert name not in {"eval", "exec", "__import__"} or isinstance(node.func, ast.Attribute), name


def test_no_file_but_its_own_names_a_method():
  methods = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__", "layers"}
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Constant) and node.value in methods:
        assert path.stem == node.value, f"{path} names the method {node.value}"


@pytest.mark.parametrize("blocked", [("flax", "orbax", "ml_collections", "tensorflow", "tensorflow_datasets", "array_record",
                                      "sklearn", "rich", "tensorboardX", "dm_pix")])
def test_losses_targets_and_metrics_import_alone(blocked):
  """In a process in which everything heavy cannot be imported."""
  code = (f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
          "from jaxdistill import losses, targets, metrics\nimport jax.numpy as jnp\n"
          "print(float(losses.kl_divergence(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0]), targets.winner(jnp.ones(2)))")
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=PACKAGE.parent)
  assert result.returncode == 0 and result.stdout.split() == ["0.0", "0"], result.stderr
