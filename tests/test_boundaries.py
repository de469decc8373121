"""Who may import whom, and what an import does: nothing but define names."""

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rnp_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

FOUNDATION = {
    "types",
    "errors",
    "atomic",
    "checks",
    "document",
    "regular_file",
    "untrusted_text",
    "npy",
    "traced",
    "fetching",
}
LIBRARY = {"descent", "masks", "models", "attacks", "data", "training", "evaluation", "defenses"}
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "atomic": {"errors"},
    "checks": {"errors"},
    "regular_file": set(),
    "plain_yaml": set(),
    "npy": set(),
    "traced": set(),
    "fetching": set(),
    "npz": FOUNDATION | {"torch_io"},
    "untrusted_text": set(),
    "console": {"untrusted_text"},
    "document": {"errors", "atomic", "regular_file", "untrusted_text"},
    "source_version": FOUNDATION,
    "cache_folder": FOUNDATION,
    "help_cache": FOUNDATION | {"cache_folder", "source_version"},
    "image_cache": FOUNDATION | {"cache_folder"},
    "compilation": FOUNDATION | {"cache_folder", "help_cache", "image_cache"},
    "descent": FOUNDATION,
    "masks": FOUNDATION,
    "torch_io": FOUNDATION,
    "models": FOUNDATION | {"masks"},
    "attacks": FOUNDATION | {"descent", "masks", "models", "data", "npz"},
    "data": FOUNDATION | {"masks", "torch_io", "npz", "image_cache"},
    "training": FOUNDATION | {"descent", "masks", "models", "attacks", "data"},
    "evaluation": FOUNDATION | LIBRARY - {"evaluation", "defenses"},
    "inversion": FOUNDATION | {"descent", "masks", "models", "training", "evaluation"},
    "defenses": FOUNDATION | LIBRARY - {"defenses", "data"} | {"inversion"},
    "adaptive": FOUNDATION | LIBRARY - {"data", "evaluation"},
    "detection": FOUNDATION | {"descent", "masks", "models", "training", "evaluation", "inversion", "defenses"},
    "reactivation": FOUNDATION | LIBRARY | {"inversion"},
    "report": FOUNDATION | LIBRARY | {"reactivation"},
    "card": FOUNDATION,
    "store": FOUNDATION,
    "normaliser": FOUNDATION | {"data", "torch_io", "card"},
    "stated_settings": FOUNDATION | {"models", "torch_io"},
    "recognition": FOUNDATION | {"models", "torch_io", "normaliser", "stated_settings"},
    "checkpoints": FOUNDATION | LIBRARY | {"torch_io", "card", "normaliser", "recognition"},
    "extractors": FOUNDATION | LIBRARY | {"torch_io", "checkpoints"},
    "config": FOUNDATION | LIBRARY | {"plain_yaml"},
    "pipeline": FOUNDATION
    | LIBRARY
    | {
        "console",
        "torch_io",
        "report",
        "checkpoints",
        "extractors",
        "card",
        "store",
        "config",
        "inversion",
        "detection",
        "reactivation",
        "threads",
        "normaliser",
        "source_version",
        "log_style",
    },
    "sweep": FOUNDATION
    | LIBRARY
    | {"report", "torch_io", "checkpoints", "recognition", "card", "config", "pipeline"}
    | {"compilation", "gpu_flags", "source_version", "threads"},
    "commands": FOUNDATION
    | LIBRARY
    | {"console", "torch_io", "report", "checkpoints", "extractors", "card", "store", "config"}
    | {"normaliser", "recognition", "adaptive"}
    | {"compilation", "cache_folder", "pipeline", "sweep", "inversion", "detection"},
    "threads": {"checks", "errors"},
    "gpu_flags": {"checks", "errors"},
    "log_style": {"checks", "errors"},
    "process": FOUNDATION | {"source_version"},
    "cli": FOUNDATION | {"commands", "compilation", "gpu_flags", "help_cache", "log_style", "process", "threads"},
    "__init__": FOUNDATION
    | LIBRARY
    | {"inversion", "detection", "torch_io", "report", "checkpoints", "extractors", "card", "store", "config"},
}
"""What each part of the package may import besides itself. A new part needs a place here."""

ONLY_IN = {
    "flax": "models/",
    "matplotlib": "report/drawing.py",
    "orbax": "store.py",
    "tensorflow_datasets": "data/tfds.py",
    "pyarrow": ("report/sweep_table.py", "sweep/manifest_rows.py"),
    "ray": "sweep/ray_engine.py",
    "submitit": "sweep/slurm_engine.py",
    "mlflow": "sweep/trackers.py",
    "tensorboardX": "sweep/trackers.py",
    "torch": None,
    "tensorflow": None,
}
"""The only place that imports a library; None is nowhere."""


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """The full names of the modules that this module's source imports, at any depth of its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(source: Path) -> list[str]:
    parts = source.relative_to(PACKAGE.parent).with_suffix("").parts
    return list(imported(ast.parse(source.read_text("utf-8")), ".".join(parts)))


def part_of(source: Path) -> str:
    return source.relative_to(PACKAGE).with_suffix("").parts[0]


def by_name(source: Path) -> str:
    return str(source.relative_to(PACKAGE))


def test_imports_are_found_wherever_they_are():
    code = (
        "import a.b as c\nfrom rnp_jax import masks\nfrom . import x\nfrom ..y import z\ndef f():\n    import torch\n"
    )
    found = set(imported(ast.parse(code), "rnp_jax.models.layers"))
    assert found == {"a.b", "rnp_jax.masks", "rnp_jax.models.x", "rnp_jax.y.z", "torch"}


def test_the_package_has_sources_and_every_part_has_a_place():
    assert {part_of(source) for source in SOURCES} <= set(MAY_IMPORT)
    assert len(SOURCES) > 30


@pytest.mark.parametrize("source", SOURCES, ids=by_name)
def test_parts_import_only_what_lies_below_them(source):
    part = part_of(source)
    used = {name.split(".")[1] for name in imports_of(source) if name.startswith("rnp_jax.")}
    assert used <= MAY_IMPORT[part] | {part}


def test_the_order_of_the_parts_has_no_cycle():
    left = dict(MAY_IMPORT)
    while left:
        free = [part for part, below in left.items() if not below & set(left)]
        assert free, f"a cycle among {sorted(left)}"
        for part in free:
            del left[part]


def module_of(source: Path) -> str:
    return ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def find_module(name: str, modules: Iterable[str]) -> str:
    """The module that defines an imported name: the name itself, or the nearest one above it."""
    return name if name in modules else find_module(name.rpartition(".")[0], modules)


def test_a_name_belongs_to_the_nearest_module_above_it():
    modules = {"rnp_jax", "rnp_jax.models", "rnp_jax.models.layers"}
    names = ["rnp_jax.models.layers.Dense", "rnp_jax.models.layers", "rnp_jax.models.Network", "rnp_jax.x"]
    found = ["rnp_jax.models.layers", "rnp_jax.models.layers", "rnp_jax.models", "rnp_jax"]
    assert [find_module(name, modules) for name in names] == found


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions and for type checkers alone count as well."""
    modules = {module_of(source): source for source in SOURCES}
    graph = {}
    for module, source in modules.items():
        names = [name for name in imports_of(source) if f"{name}.".startswith("rnp_jax.")]
        graph[module] = {find_module(name, modules) for name in names}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("source", SOURCES, ids=by_name)
def test_libraries_are_imported_in_one_place_only(source):
    where = source.relative_to(PACKAGE).as_posix()
    for name in {each.split(".")[0] for each in imports_of(source)} & set(ONLY_IN):
        place = ONLY_IN[name]
        assert place is not None, f"{name} is not to be imported"
        assert where.startswith(place), f"{name} is for {place} alone"


PROBE = """
import importlib, json, logging, sys
import jax, numpy as np  # importing jax draws random numbers
seed = np.random.get_state()[1].tolist()
handlers = list(logging.root.handlers)
importlib.import_module(sys.argv[1])
from jax._src import xla_bridge
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "backend": xla_bridge.backends_are_initialized(),
    "seeded": np.random.get_state()[1].tolist() != seed,
    "logging": logging.root.handlers != handlers,
}))
"""


@pytest.mark.parametrize("module", ["rnp_jax", "rnp_jax.cli"])
def test_importing_defines_names_and_does_nothing_else(module):
    """In a process of its own: no device is touched, no generator seeded, and nothing slow that few runs need."""
    done = subprocess.run([sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)  # nothing was printed either
    assert not found["backend"]
    assert not found["seeded"]
    assert not found["logging"]
    slow = {"torch", "tensorflow", "tensorflow_datasets", "orbax", "sklearn", "scipy", "matplotlib"}
    assert not slow & set(found["modules"])


def test_every_module_imports_without_a_warning():
    modules = [".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts) for source in SOURCES]
    modules = [name.removesuffix(".__init__") for name in modules]
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    subprocess.run([sys.executable, "-W", "error", "-c", code, *modules], check=True, capture_output=True)


READERS = (
    *("card.py", "checkpoints.py", "config.py", "document.py", "help_cache.py", "masks.py", "npy.py", "npz.py"),
    *("store.py", "attacks/", "torch_io/", "models/", "data/images.py", "data/npz.py", "sweep/manifest"),
)


def test_what_nobody_trusts_is_read_within_bounds():
    """``regular_file`` opens it: a FIFO would be waited for, a device or a hole in a file would fill the memory."""
    for source in SOURCES:
        if by_name(source).startswith(READERS):
            nodes = ast.walk(ast.parse(source.read_text("utf-8")))
            called = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            assert not called & {"read_bytes", "read_text"}, source
