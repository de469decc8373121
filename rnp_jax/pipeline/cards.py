"""The card of a model that a command has trained."""

import os
from pathlib import Path
from typing import Any

from rnp_jax.card import ArchitectureCard, AttackCard, Card, ExtractorCard, NormalizationCard
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.extractors import Extractor
from rnp_jax.models import Network
from rnp_jax.pipeline.versions import device_name, package_versions
from rnp_jax.torch_io import read_checkpoint


def describe_model(
    path: Path,
    network: Network,
    *,
    data: str,
    train_images: int,
    attack: AttackCard | None,
    extractor: Extractor | None,
    training: dict[str, Any],
    augmentation: dict[str, Any],
    seed: int,
    metrics: Metrics,
    seconds: float | None = None,
    draft: Path | None = None,
    adaptive: dict[str, Any] | None = None,
) -> Card:
    """The card of the checkpoint just written to ``path``, or to ``draft``, which will have that name."""
    architecture = network.architecture
    measured = {name: share for name in ("acc", "asr", "ra") if (share := getattr(metrics, name)) is not None}
    return Card(
        file=path.name,
        sha256=read_checkpoint(draft or path).sha256,
        architecture=ArchitectureCard(
            name=architecture.name,
            num_classes=architecture.num_classes,
            width=architecture.width,
            image_shape=architecture.image_shape,
        ),
        normalization=NormalizationCard(mean=network.mean, std=network.std),
        data=data,
        train_images=train_images,
        attack=attack,
        extractor=None if extractor is None else describe_extractor(extractor, path),
        training=training,
        augmentation=augmentation,
        adaptive=adaptive,
        seed=seed,
        precision=network.arithmetic,
        acc=metrics.acc.value,
        asr=None if metrics.asr is None else metrics.asr.value,
        ra=None if metrics.ra is None else metrics.ra.value,
        intervals={name: share.interval for name, share in measured.items()},  # pyright: ignore[reportArgumentType]
        seconds=seconds,
        device=device_name(),
        versions=package_versions(),
    )


def describe_extractor(extractor: Extractor, head: Path) -> ExtractorCard:
    """What the head at ``head`` needs to find and recognise its extractor again."""
    source = Path(str(extractor.provenance["path"]))
    return ExtractorCard(
        path=Path(os.path.relpath(source, head.parent)).as_posix(),
        name=extractor.name,
        dim=extractor.dim,
        sha256=str(extractor.provenance["sha256"]),
    )
