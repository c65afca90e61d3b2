"""The package's rooms, and folders in a room, import in one direction only (docs/design.md)."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "scgm_scvi"

LOWEST = {"nn", "diffusion", "distributions"}
# What each room may import, besides itself and the helpers (private modules at the package root).
ALLOWED = {
    "cli": {"benchmark", "model", "train", "module", *LOWEST, "atlas", "datasets", "metrics", "pl"},
    "benchmark": {"model", "metrics", "pl"},
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
# Folders of a room in order, among them the files at its root that they may import: each may import
# those before it. The other files at the room's root are above the folders, and none imports them.
FOLDERS = {
    "atlas": ["download", "formats", "sources", "curate", "store", "stream"],
    "model": [
        *("_batch_sizes", "_log", "_random_state"),
        *("requests", "data", "prior", "training", "verbs", "sharing"),
        *("_latent_diffusion_model", "scvi_models"),
    ],
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


def files_of(root: Path) -> Iterator[tuple[Path, tuple[str, ...], ast.AST]]:
    """Every file of the package at ``root``: its path, the same in parts, and what it says."""
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        yield inside, inside.with_suffix("").parts, tree


def violations(root: Path) -> list[str]:
    """Say, a line each, which imports under the package at ``root`` go against the arrows."""
    wrong = []
    for path, inside, tree in files_of(root):
        room = room_of(inside)
        if room == FACADE:
            continue
        if room != HELPER and room not in ALLOWED:
            wrong.append(f"{path}: room '{room}' has no place in ALLOWED")
            continue
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
            wrong.append(f"{path}:{line}: '{room}' imports '{target}' ({name})")
    return wrong


def folder_violations(root: Path) -> dict[tuple[str, str], str]:
    """Which imports between the folders of a room go against their order, said in a line each."""
    wrong = {}
    for path, (room, *inside), tree in files_of(root):
        order = FOLDERS.get(room, [])
        if len(inside) > 1 and inside[0] not in order:
            wrong[str(path), inside[0]] = f"{path}: '{inside[0]}' has no place in FOLDERS"
        if not inside or inside[0] not in order:
            continue
        before = order[: order.index(inside[0]) + 1]
        for line, name in imported_modules(tree, (root.name, room, *inside[:-1])):
            top, *rest = name.split(".")
            if [top, *rest[:1]] != [root.name, room]:
                continue
            known = rest[1:] and any((root / room / p).exists() for p in (rest[1], f"{rest[1]}.py"))
            target = rest[1] if known else FACADE
            if target not in before:
                said = f"{path}:{line}: '{inside[0]}' imports '{target}' ({name})"
                wrong[path.as_posix(), target] = said
    return wrong


class _Running(ast.NodeTransformer):
    """Leaves out what is there for type checkers alone."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.AST]:
        name = getattr(node.test, "attr", getattr(node.test, "id", None))
        return node.orelse if name == "TYPE_CHECKING" else self.generic_visit(node)


def circle(root: Path) -> list[str]:
    """Files that import each other in a circle, wherever in them; none if there is no circle."""
    graph = {}
    for path, inside, tree in files_of(root):
        graph[str(path)] = found = set()
        for _, name in imported_modules(_Running().visit(tree), (root.name, *inside[:-1])):
            top, *rest = name.split(".")
            while top == root.name:
                places = "/".join([*rest, "__init__.py"]), f"{'/'.join(rest)}.py"
                if target := next((p for p in places if (root / p).is_file()), None):
                    found.add(str(Path(target)))
                    break
                rest.pop()  # a name that the module defines
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_arrows_point_one_way():
    assert list(PACKAGE.rglob("*.py")), f"no source under {PACKAGE}"
    assert violations(PACKAGE) == []


def test_folders_import_those_before_them():
    assert list(folder_violations(PACKAGE).values()) == []


def test_every_place_in_an_order_is_taken():
    for room, order in FOLDERS.items():
        places = {p.stem for p in (PACKAGE / room).iterdir() if p.suffix in ("", ".py")}
        assert set(order) <= places


def test_no_files_import_in_a_circle():
    assert circle(PACKAGE) == []


def tree_with(root: Path, file: str, source: str) -> Path:
    """Make a package with every room, a helper, and one file of the given source."""
    package = root / "scgm_scvi"
    for room in sorted(ALLOWED.keys() - {"cli"}):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    for name in ("__init__", "cli", "_types"):
        (package / f"{name}.py").touch()
    for room, order in FOLDERS.items():
        for name in order:
            if name.startswith("_"):
                (package / room / f"{name}.py").touch()
            else:
                (package / room / name).mkdir()
                (package / room / name / "__init__.py").touch()
    (package / file).parent.mkdir(exist_ok=True)
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


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("atlas/download/_http.py", "from scgm_scvi.atlas.sources import SOURCES"),
        ("atlas/sources/_tisch.py", "from ..store._store import Store"),
        ("atlas/store/_store.py", "def f():\n    from scgm_scvi.atlas import stream"),
        ("atlas/stream/_loaders.py", "from scgm_scvi.atlas._build import build"),
        ("atlas/stream/_loaders.py", "from scgm_scvi.atlas import build"),
        ("atlas/stream/_loaders.py", "from .. import AtlasDataModule"),
        ("atlas/formats/_h5.py", "if TYPE_CHECKING:\n    from ..curate._genes import GeneAxis"),
        ("atlas/extra/_new.py", ""),
        ("nn/extra/_new.py", ""),
        ("model/requests/_energy.py", "from scgm_scvi.model._latent_diffusion_model import Model"),
        ("model/_latent_diffusion_model.py", "from .scvi_models._pretrained import DiffusionSCVI"),
        ("model/_log.py", "from .requests._sampling import SamplingMixin"),
    ],
)
def test_a_wrong_import_between_folders_is_caught(tmp_path, file, source):
    package = tree_with(tmp_path, file, source)
    (package / "atlas/_build.py").touch()
    ((found, _),) = folder_violations(package)
    assert found == file


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("atlas/store/_store.py", "from ._shard import write_shard\nfrom . import _csr"),
        ("atlas/stream/_loaders.py", "from scgm_scvi.atlas.store import _csr\nimport numpy"),
        ("atlas/_build.py", "from .stream._loaders import ENGINES\nfrom ._plan import Plan"),
        ("atlas/__init__.py", "from .store._store import Store"),
        ("model/verbs/_editing.py", "from scgm_scvi.model._log import logger"),
        ("model/scvi_models/_scvi.py", "from scgm_scvi.model._latent_diffusion_model import M"),
        ("model/_scgm.py", "from .scvi_models._scvi import M\nfrom ._two_stage import T"),
    ],
)
def test_a_right_import_between_folders_passes(tmp_path, file, source):
    assert folder_violations(tree_with(tmp_path, file, source)) == {}


@pytest.mark.parametrize(
    ("here", "there", "caught"),
    [
        ("from ._b import b", "from ._a import a", True),
        ("from . import _b", "def f():\n    import scgm_scvi.nn._a", True),
        ("from ._b import b", "from scgm_scvi.nn import a", True),
        ("from ._b import b", "if TYPE_CHECKING:\n    from ._a import a", False),
        ("from ._b import b", "import math", False),
    ],
)
def test_a_circle_is_caught(tmp_path, here, there, caught):
    package = tree_with(tmp_path, "nn/_a.py", here)
    (package / "nn/_b.py").write_text(there)
    (package / "nn/__init__.py").write_text("from ._a import a")
    assert bool(circle(package)) == caught
