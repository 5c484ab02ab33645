"""The table of faults has a row for each, and names only tests that exist."""

import ast
import re

import pytest

from tests.helpers import runs

TABLE = runs.ROOT / "tests" / "faults" / "README.md"
ROWS = re.findall(r"^\| (F\d+) \|(.*)\|(.*)\|(.*)\|$", TABLE.read_text(), re.MULTILINE)
CITED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE.read_text())))


def test_every_fault_has_a_row():
  assert [number for number, *_ in ROWS] == [f"F{n}" for n in range(1, 36)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_row_has_a_test(row):
  *_, tests = row
  assert "::" in tests


@pytest.mark.parametrize("path, name", CITED, ids=lambda part: part)
def test_cited_tests_exist(path, name):
  tree = ast.parse((runs.ROOT / path).read_text())
  functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
  assert name in functions
