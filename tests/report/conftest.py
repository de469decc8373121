"""A realistic result, its masks and its sample images."""

import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from rnp_jax.report.ablation import Ablation, AblationCell
from rnp_jax.report.detection import (
    Detection,
    LabelShare,
    RecoveredLabel,
    SamplePart,
    SampleTruth,
    SignPart,
    StatisticPart,
    TriggerPart,
)
from rnp_jax.report.samples import Samples
from rnp_jax.report.schema import (
    AttackInfo,
    CheckpointInfo,
    Choice,
    ClassAccuracy,
    DataInfo,
    Evidence,
    FeatureInfo,
    Metrics,
    Oracle,
    Phase,
    PrunedFilter,
    Result,
    SearchedLabel,
    Stage,
    Sweep,
    SweepPoint,
    Verdict,
    Versions,
)
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import make_rows, share

LAYERS = {"bn1": 16, "layer1.0.bn1": 16, "layer2.0.bn1": 32, "layer4.1.bn2": 128}


def release_points() -> list[SweepPoint]:
    rows = [(0.0, 10, 1900, 1811), (0.1, 24, 1880, 120), (0.2, 40, 1800, 16), (0.9, 150, 400, 0)]
    return [
        SweepPoint(threshold=t, pruned=n, acc=share(acc, 2000), asr=share(asr, 1811), ra=share(1811 - asr, 2 * 1811))
        for t, n, acc, asr in rows
    ]


def damage_points() -> list[SweepPoint]:
    return [
        SweepPoint(threshold=None, pruned=n, acc=share(1900 - n, 2000), holdout_acc=share(95 - n // 8, 100))
        for n in range(0, 40, 8)
    ]


NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def make_classes() -> tuple[ClassAccuracy, ...]:
    """Ten classes, of which the last has no images."""
    counts = [(200, 192 - label, 190 - 4 * label) for label in range(9)]
    known = [
        ClassAccuracy(label=label, name=NAMES[label], before=share(before, total), after=share(after, total))
        for label, (total, before, after) in enumerate(counts)
    ]
    return (*known, ClassAccuracy(label=9, name=NAMES[9], before=None, after=None))


def make_evidence() -> Evidence:
    """A label that stood out before and is reached from the old mask alone, and two others."""
    figures = {
        0: (True, 1.4, None, 81.25, 1.0, 0.02, 1.0, 0.05, 0.97, 0.31, 0.95, 0.03, 0.9, 0.04, 0.4, 0.97),
        4: (False, 28.0, 30.5, 41.0, 0.99, 0.12, 0.99, 0.3, 0.42, 0.2, 0.2, 0.1, 0.1, 0.08, 1.01, 1.02),
        7: (False, 1234.5, None, None, 0.98, 0.125, 0.98, 0.35, 0.4, 0.25, 0.2, 0.22, 0.05, 0.06, 1.0, None),
    }
    names = tuple(SearchedLabel.model_fields)[2:]
    return Evidence(
        level="none found",
        visible=True,
        labels=tuple(
            SearchedLabel.model_validate({"label": label, "name": NAMES[label], **dict(zip(names, row, strict=True))})
            for label, row in figures.items()
        ),
        ordinary_before=28.0,
        ordinary_after=None,
        reasons=("No search reached a suspected label more easily than an ordinary one.",),
    )


@pytest.fixture
def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {layer: np.clip(rng.normal(0.8, 0.4, n), 0, 1).astype(np.float32) for layer, n in LAYERS.items()}


@pytest.fixture
def samples() -> Samples:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 200, (3, 8, 8, 3), dtype=np.uint8)
    triggered = clean.copy()
    triggered[:, -3:, -3:] += 51
    return Samples(clean, triggered, ["dog", "cat", "ship"], ["airplane"] * 3, ["dog", "cat", "truck"])


@pytest.fixture
def result(masks: dict[str, np.ndarray]) -> Result:
    pruned = [(layer, i) for layer, mask in masks.items() for i in np.flatnonzero(mask <= 0.1)]
    return Result(
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        versions=Versions(
            rnp_jax="0.1.0", python="3.11.7", jax="0.10.0", jaxlib="0.10.0", flax="0.12.1", numpy="2.4.6"
        ),
        device="cpu",
        precision="float32",
        seed=7,
        command="rnp-jax defend model.pt",
        checkpoint=CheckpointInfo(
            path="/models/suspect.pt",
            sha256="0123456789abcdef" * 4,
            container="zip",
            state_dict_key="state_dict",
            architecture="resnet18",
            width=16,
            num_classes=10,
            parameters=701466,
            filters=192,
            anomalies=("optimizer: left unread",),
        ),
        data=DataInfo(
            name="digits", defense_images=500, holdout_images=100, test_images=2000, mean=(0.5,), std=(0.25,)
        ),
        attack=AttackInfo(name="badnets", target=0, mapping="all_to_one", triggered_images=1811, constants={"size": 3}),
        method="rnp",
        config={"unlearn": {"learning_rate": 0.01, "milestones": [10, 20]}, "recover": {"alpha": 0.2}},
        before=Metrics(acc=share(1920, 2000), asr=share(1811, 1811), ra=share(0, 1811)),
        after=Metrics(acc=share(1880, 2000), asr=share(120, 1811), ra=share(1600, 1811), der=0.957),
        choice=Choice(
            rule="The largest threshold within 3 points of the original held-out accuracy.",
            ranking="release",
            threshold=0.1,
            pruned=len(pruned),
            holdout_acc_before=share(96, 100),
            holdout_acc_after=share(94, 100),
            budget=0.03,
        ),
        oracle=Oracle(ranking="release", threshold=0.2, pruned=40, metrics=Metrics(acc=share(1800, 2000)), budget=0.03),
        sweeps=(Sweep(ranking="release", points=release_points()), Sweep(ranking="damage", points=damage_points())),
        phases=(
            Phase(name="unlearn", series={"loss": [0.4, 30.0, 900.0], "accuracy": [0.9, 0.5, 0.1]}, stopped="At 0.20."),
            Phase(name="recover", series={"loss": [3.0, 2.0], "asr": [1.0, math.nan]}, stopped="Ran both epochs."),
        ),
        pruned_filters=[PrunedFilter(layer=n, index=i, mask=masks[n][i], damage=0.001 * i) for n, i in pruned],
        classes=make_classes(),
        evidence=make_evidence(),
        timing=(Stage(stage="unlearn", seconds=1.25), Stage(stage="recover", seconds=200)),
        warnings=("Only 100 held-out images.",),
        verdict=Verdict(headline="The backdoor was removed", detail="ASR fell from 100% to 6.6%.", level="ok"),
    )


@pytest.fixture
def scores() -> dict[str, np.ndarray]:
    """Zeros, a layer of zeros alone, and an infinity among them."""
    rng = np.random.default_rng(0)
    scores = {layer: np.exp(rng.normal(0, 0.5, n)).astype(np.float32) for layer, n in LAYERS.items()}
    scores["bn1"][:] = 0
    scores["layer1.0.bn1"][:4] = 0
    scores["layer2.0.bn1"][3] = np.inf
    return scores


@pytest.fixture
def scored(result: Result, scores: dict[str, np.ndarray]) -> Result:
    """A run of a score-based defense on a head, its thresholds by layer."""
    thresholds = {"bn1": None, "layer1.0.bn1": 1.5, "layer2.0.bn1": 1.6, "layer4.1.bn2": 1.7}
    pruned = [
        PrunedFilter(layer=layer, index=int(i), score=scores[layer][i])
        for layer, limit in thresholds.items()
        if limit is not None
        for i in np.flatnonzero(scores[layer] > limit)
    ]
    assert result.choice
    choice = result.choice.model_copy(update={"threshold": None, "thresholds": thresholds, "pruned": len(pruned)})
    features = FeatureInfo(
        extractor="simclr resnet18",
        dim=512,
        sha256="fedcba9876543210" * 4,
        provenance="Trained on the poisoned images.",
        caution="The extractor may carry the backdoor.",
    )
    return Result.model_validate(
        dict(result)
        | {
            "method": "clp",
            "kind": "score",
            "choice": choice,
            "pruned_filters": pruned,
            "features": features,
            "covariates": {"trigger shift / class spread": 0.83, "clean shift": math.nan},
        }
    )


@pytest.fixture
def unattacked(result: Result) -> Result:
    """The same run where no trigger is known."""
    points = [SweepPoint(threshold=p.threshold, pruned=p.pruned, acc=p.acc) for p in release_points()]
    return result.model_copy(
        update={
            "attack": None,
            "oracle": None,
            "before": Metrics(acc=result.before.acc),
            "after": Metrics(acc=result.after.acc),
            "sweeps": (Sweep(ranking="release", points=points),),
            "verdict": Verdict(headline="Pruned; ASR unknown", detail="No trigger is known.", level="unknown"),
        }
    )


@pytest.fixture
def cells() -> list[AblationCell]:
    """Every setting of an ablation, with two seeds."""
    settings = product(("local", "feature"), ("std", "mad"), ("inf", "2"), ("0.05", "0.02, 0.1"), (1.0, 0.5), (0, 1))
    return [
        AblationCell(
            alpha=alpha, radii=radii, norm=norm, scope=scope, rule=rule, seed=seed,
            acc=share(1500 + i, 2000), asr=share(10 * i, 1000), pruned=i, rank_correlation=1 - i / 100,
        )
        for i, (scope, rule, norm, radii, alpha, seed) in enumerate(settings)
    ]  # fmt: skip


@pytest.fixture
def ablation(cells: list[AblationCell], result: Result) -> Ablation:
    return Ablation(
        created=result.created, versions=result.versions, device="cpu", config={"checkpoint": "runs/head.pt"},
        reference="CLP", cells=cells,
    )  # fmt: skip


@pytest.fixture
def detection() -> Detection:
    rows = (
        RecoveredLabel(label=0, name="zero", norm=3.5, index=float("inf"), reached=True, success=1.0,
                       success_on_original=0.9, overlap=0.25),
        RecoveredLabel(label=1, name="<b>one</b>", norm=40, index=-1, reached=False, success=0.1,
                       success_on_original=0.1),
    )  # fmt: skip
    return Detection(
        created=datetime(2026, 1, 2, tzinfo=UTC),
        versions=Versions(rnp_jax="1", python="3", jax="0", jaxlib="0", flax="0", numpy="2"),
        device="cpu",
        precision="float32",
        seed=0,
        checkpoint=CheckpointInfo(
            path="a/model.pt", sha256="0" * 64, container="zip", state_dict_key=None, architecture="resnet18", width=8,
            num_classes=2, parameters=10, filters=4,
        ),
        data=DataInfo(name="digits", defense_images=200, holdout_images=0, test_images=0, mean=(0.0,), std=(1.0,)),
        config={},
        verdict=Verdict(headline="Likely backdoored", detail="A sharp peak. No small trigger.", level="bad"),
        outcome="likely backdoored",
        label=0,
        signs=(
            SignPart(look="labels", title="unlearning", strength="strong", labels=(0,), sentence="A sharp peak.",
                     blind="clean-label attacks"),
            SignPart(look="search", title="searches", strength="none", labels=(), sentence="No small trigger.",
                     blind="faint triggers"),
        ),
        statistics=(
            StatisticPart(
                statistic="labels", outcome="backdoored", score=0.9, threshold=0.7, label=0, calibration="ten models"
            ),
        ),
        shares=(LabelShare(label=0, name="zero", share=0.9), LabelShare(label=1, name="<b>one</b>", share=0.1)),
        triggers=(TriggerPart(model="original", labels=rows, suspected=(0,)),),
        samples=(
            SamplePart(
                score="loss", title="low loss", data="digits", samples=100, rule="the top", threshold=2.0,
                suspicious=(7, 3), truth=SampleTruth(auroc=0.9, low=0.8, high=1.0, tpr=0.5, poisoned=10, clean=90),
            ),
        ),
    )  # fmt: skip


@pytest.fixture
def rows() -> list[SweepRow]:
    """Nine methods on two attacks with three seeds each."""
    return make_rows()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "headless=new no-sandbox disable-gpu disable-background-networking disable-component-update disable-sync"
    for flag in [
        *flags.split(),
        "no-first-run",
        "hide-scrollbars",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()
