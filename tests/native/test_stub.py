"""The type stub of the extension module says what the module has."""

import ast
from pathlib import Path

import ostinato
from ostinato import _native


def test_the_stub_names_what_the_module_has() -> None:
    stub = ast.parse((Path(ostinato.__path__[0]) / "_native.pyi").read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    declared = {node.name for node in stub.body if isinstance(node, kinds)}
    assert declared == {name for name in dir(_native) if not name.startswith("_")}
