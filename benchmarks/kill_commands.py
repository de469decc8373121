"""The commands that ``benchmarks.kills`` kills, and what of their folders has to be equal whenever they end."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rnp_jax.store import load_tree

ROOT = Path(__file__).parents[1]
VICTIM, LAST = "victim.pt", "report.html"
_CHECKPOINTS = tuple(str(ROOT / "checkpoints" / f"digits_{attack}.pt") for attack in ("badnets", "blend"))
_FEW = ("--test-images", "60", "--batch-size", "20")
_SMALL = (*_FEW, "--defense.size", "40", "--defense.holdout", "0.5")
_CLP = ("--clp.threshold.rule", "number", "--clp.threshold.number", "3")
_NETWORK = ("--data", "digits", "--normalization", "digits", "--image-size", "8", "--width", "2", "--target", "3")
_HID = (
    *("--hid.units", "24", "--hid.rounds", "1", "--hid.views.no-flip", "--hid.views.grayscale", "0"),
    *("--hid.simclr.epochs", "1", "--hid.head.epochs", "1", "--hid.mixmatch.epochs", "1"),
    *("--hid.prune.threshold.rule", "number", "--hid.prune.threshold.number", "2"),
)


@dataclass(frozen=True)
class Command:
    """A command that takes seconds.

    Attributes:
      arguments: of ``rnp-jax``, run in an empty folder; it writes to ``out``.
      last: the file below ``out`` whose presence says that it has ended, so that it is refused; none where it ends
        again.
      again: what else is given when it goes on.
      workers: whether processes of its own work for it.
    """

    arguments: tuple[str, ...]
    last: str | None = None
    again: tuple[str, ...] = ()
    workers: bool = False


COMMANDS = MappingProxyType(
    {
        "defend": Command(
            ("defend", _CHECKPOINTS[0], "--config", str(ROOT / "configs" / "smoke.yaml"), *_SMALL,
             "--evidence", "never", "--out", "out"),
            LAST,
        ),
        "attack": Command(
            ("attack", "badnets", *_NETWORK, *_FEW, "--train.epochs", "4", "--train.batch-size", "256",
             "--augmentation.no-flip", "--out", f"out/{VICTIM}"),
            VICTIM,
            again=("--resume",),
        ),
        "sweep": Command(
            ("sweep", *_CHECKPOINTS, "{inputs}/cut.pt", "--method", "none", "clp", *_CLP, *_SMALL,
             "--sweep-images", "0", "--out", "out"),
            workers=True,
        ),
        "simclr": Command(
            ("simclr", "badnets", *_NETWORK, *_FEW, "--simclr.epochs", "4", "--simclr.batch-size", "256",
             "--views.no-flip", "--probe.epochs", "1", "--out", f"out/{VICTIM}"),
            VICTIM,
            again=("--resume",),
        ),
        "hid": Command(
            ("defend", f"{{inputs}}/{VICTIM}", "--method", "hid", *_HID, *_FEW, "--augmentation.no-flip",
             "--out", "out"),
            LAST,
        ),
        "study": Command(
            ("study", "badnets", "none", "--extractor", _CHECKPOINTS[0], "--data", "digits", "--head", "16",
             "--seeds", "0", "--train.epochs", "2", "--train.batch-size", "256", "--method", "none", "clp", *_SMALL,
             "--out", "out"),
        ),
    }
)  # fmt: skip
"""By the name that ``--commands`` takes; ``{inputs}`` stands for the folder that ``write_inputs`` fills."""

_EXACT = (".pt", ".npz", ".txt", ".yaml")
_JSON = (".json", ".jsonl")
_OF_THE_RUN = ("created", "timing", "seconds", "attempt", "device", "key")
"""What two undisturbed runs differ in, too. The cards of a study have seconds, and a row's key is of its card."""


def describe(folder: Path) -> dict[str, str]:
    """Every name below a folder, with a digest of whatever has to be equal in every run.

    Weights, triggers, masks, options and figures have to be; pages, pictures, tables with times and logs have to be
    there. Of the logs of workers, only their folder counts.
    """
    found = {}
    for parent, folders, files in os.walk(folder):
        trees = [name for name in folders if Path(parent, name, "_CHECKPOINT_METADATA").exists()]
        for name in (*folders, *files):
            path = Path(parent, name)
            digest = _digest_tree(path) if name in trees else _digest(path)
            found[f"rows/{digest}" if path.parent.name == "rows" else str(path.relative_to(folder))] = digest
        folders[:] = [name for name in folders if name not in (*trees, "logs")]
    return found


def _digest_tree(path: Path) -> str:
    tree, metadata = load_tree(path)
    arrays = {key: np.asarray(value) for key, value in _flatten(tree).items()}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape}".encode() + arrays[key].tobytes())
    return digest.hexdigest()


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {key: leaf for name in tree for key, leaf in _flatten(tree[name], f"{prefix}/{name}").items()}


def _digest(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.suffix in _JSON:
        content = path.read_text("utf-8")
        values = content.splitlines() if path.suffix == ".jsonl" else [content]
        return hashlib.sha256(json.dumps([_drop_times(json.loads(value)) for value in values]).encode()).hexdigest()
    timed = path.suffix not in _EXACT or path.name == "training.yaml"
    return "file" if timed else hashlib.sha256(path.read_bytes()).hexdigest()


def _drop_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _drop_times(each) for name, each in value.items() if name not in _OF_THE_RUN}
    return [_drop_times(each) for each in value] if isinstance(value, list) else value


def compare(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What is missing, too much, or another."""
    return [
        *(f"missing {name}" for name in sorted(wanted.keys() - found.keys())),
        *(f"left over {name}" for name in sorted(found.keys() - wanted.keys())),
        *(f"differs {name}" for name in sorted(found.keys() & wanted.keys()) if found[name] != wanted[name]),
    ]
