"""The rooms of the package import each other in one direction only (docs/design.md)."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "scgm_scvi"

LOWEST = {"nn", "diffusion", "distributions"}
# What each room may import, besides itself and the helpers (private modules at the package root).
ALLOWED = {
    "cli": {"model", "train", "module", *LOWEST, "atlas", "datasets", "metrics", "pl"},
    "model": {"train", "module", *LOWEST},
    "train": {"module", *LOWEST},
    "module": LOWEST,
    "nn": set(),
    "diffusion": set(),
    "distributions": set(),
    "atlas": set(),
    "datasets": set(),
    "metrics": set(),
    "pl": {"metrics"},
}
NO_HELPERS = {"diffusion", "distributions"}
# Third-party packages of a room that is kept to a few, besides the standard library.
THIRD_PARTY = {"diffusion": {"torch"}, "distributions": {"torch", "scvi"}}
FACADE, HELPER = "__init__", "_helpers"


def room_of(module: tuple[str, ...]) -> str:
    """Name the room of a module of the package, given its path from the package root."""
    if not module or module == ("__init__",):
        return FACADE
    first = "cli" if module[0] == "__main__" else module[0]
    return HELPER if first.startswith("_") else first


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """List ``(line, absolute name)`` of everything imported, relative imports resolved."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*base, *([node.module] if node.module else [])))
            # `from package import name` may import a room by name
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in {"import_module", "__import__"}:
                found.append((node.lineno, node.args[0].value))
    return found


def violations(root: Path) -> list[str]:
    """Say, a line each, which imports under the package at ``root`` go against the arrows."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).with_suffix("").parts
        room = room_of(inside)
        if room == FACADE:
            continue
        if room != HELPER and room not in ALLOWED:
            wrong.append(f"{path.relative_to(root)}: room '{room}' has no place in ALLOWED")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, name in imported_modules(tree, (root.name, *inside[:-1])):
            top, *rest = name.split(".")
            if top != root.name:
                limit = THIRD_PARTY.get(room)
                if limit is None or top in limit or top in sys.stdlib_module_names:
                    continue
                target = top
            else:
                # a name of the package root that is no module of it is defined in its __init__
                known = rest and any((root / p).exists() for p in (rest[0], f"{rest[0]}.py"))
                target = room_of(tuple(rest)) if known else FACADE
                if target == room or target in ALLOWED.get(room, ()):
                    continue
                if target == HELPER and room not in NO_HELPERS:
                    continue
            wrong.append(f"{path.relative_to(root)}:{line}: '{room}' imports '{target}' ({name})")
    return wrong


def test_arrows_point_one_way():
    assert list(PACKAGE.rglob("*.py")), f"no source under {PACKAGE}"
    assert violations(PACKAGE) == []


def tree_with(root: Path, file: str, source: str) -> Path:
    """Make a package with every room, a helper, and one file of the given source."""
    package = root / "scgm_scvi"
    for room in sorted(ALLOWED.keys() - {"cli"}):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    for name in ("__init__", "cli", "_types"):
        (package / f"{name}.py").touch()
    (package / file).write_text(source)
    return package


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nn/_net.py", "from scgm_scvi.diffusion import Denoiser"),
        ("diffusion/_noise.py", "from ..nn import ScoreNetwork"),
        ("diffusion/_noise.py", "import numpy as np"),
        ("diffusion/_noise.py", "from .._types import Array"),
        ("distributions/_poisson.py", "from scgm_scvi.nn import ExpressionDecoder"),
        ("distributions/_poisson.py", "import anndata"),
        ("module/__init__.py", "from ..train import plan"),
        ("train/_plan.py", "from .. import model"),
        ("model/_scgm.py", "import scgm_scvi.atlas.store"),
        ("model/_scgm.py", "def f():\n    from scgm_scvi import atlas"),
        ("model/_scgm.py", "import importlib\nimportlib.import_module('scgm_scvi.atlas')"),
        ("model/_scgm.py", "from scgm_scvi import SCGM"),
        ("atlas/_store.py", "from ..module._base import SCGMVAE"),
        ("metrics/__init__.py", "from scgm_scvi.model import SCGM"),
        ("pl/__init__.py", "from ..cli import main"),
        ("datasets/__init__.py", "import scgm_scvi"),
        ("_types.py", "from .nn import ScoreNetwork"),
        ("extra.py", ""),
    ],
)
def test_a_wrong_import_is_caught(tmp_path, file, source):
    found = violations(tree_with(tmp_path, file, source))
    assert len(found) == 1
    assert found[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli.py", "from scgm_scvi import atlas, datasets, metrics, pl\nfrom .model import SCGM"),
        ("model/_scgm.py", "from ..train._plan import Plan\nfrom .._types import Array"),
        ("model/_scgm.py", "import anndata\nfrom . import _generation"),
        ("module/_vae.py", "from scgm_scvi.nn import Net\nfrom scgm_scvi import diffusion"),
        ("distributions/_poisson.py", "import torch\nfrom scvi.distributions import Poisson"),
        ("diffusion/_noise.py", "import math\nimport torch.nn as nn\nfrom ._base import Noise"),
        ("pl/__init__.py", "from ..metrics import mmd"),
        ("__init__.py", "from .model import SCGM\nfrom . import pl"),
    ],
)
def test_a_right_import_passes(tmp_path, file, source):
    assert violations(tree_with(tmp_path, file, source)) == []
