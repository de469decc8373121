"""What a run leaves in its folder, and what it must never replace."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.card import read_card
from rnp_jax.checkpoints import load_model
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.defenses import METHODS, ClpConfig, HidConfig, ThresholdConfig
from rnp_jax.defenses.result import NO_CANDIDATES, Candidates, Choice, Defended
from rnp_jax.errors import DataError
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.case import open_case
from rnp_jax.pipeline.describing import describe_run
from rnp_jax.pipeline.measuring import measure, run_method
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions, UntrustedOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.writing import EXTRACTOR, LAST, name_cleaned, write_masks, write_network, write_page
from rnp_jax.store import load_tree
from rnp_jax.torch_io import read_checkpoint

IMAGES = DataOptions(image_size=8, test_images=100)


def ask(path, name: str, settings=None, **options) -> Request:
    shared = RunOptions(
        method=name,
        images=IMAGES,
        defense=DefenseSetOptions(size=40, holdout=0.5),
        compute=ComputeOptions(batch_size=20),
    )
    method = METHODS[name]
    return Request(str(path), method, method.defaults if settings is None else settings, replace(shared, **options))


def work(path, request: Request, defended=None) -> SimpleNamespace:
    """A case of the checkpoint, and its outcome: the method's, or that of what is given."""
    log = RunLog(quiet=True)
    case = open_case(open_model(str(path), SourceOptions(), request.options.compute), request, log)
    done = run_method(case, request, log) if defended is None else defended(case)
    return SimpleNamespace(request=request, case=case, outcome=measure(case, done, request, log), log=log)


@pytest.fixture(scope="module")
def pruned(small_victim) -> SimpleNamespace:
    request = ask(small_victim, "clp", ClpConfig(ThresholdConfig("number", number=3)))
    return work(small_victim, request)


HEAD = mlp_head(16, (4, 2), 10)


def train_by_hand(case) -> Defended:
    """A new network with one pruned unit, and its extractor."""
    fresh = HEAD.init(jax.random.key(0))
    filters = masks.filters(fresh["masks"])
    return Defended(
        masks.apply_filters(fresh, masks.keep(filters, np.array([1]))),
        masks.unflatten(np.arange(6.0), filters),
        "score",
        Candidates(np.array([1]), np.array([1.0]), np.full(1, np.nan)),
        Choice(pruned=1, rule="by hand", ranking="hid"),
        network=HEAD,
        extractor=(case.network, case.network.init(jax.random.key(1))),
    )


@pytest.fixture(scope="module")
def anew(small_victim) -> SimpleNamespace:
    return work(small_victim, ask(small_victim, "hid", HidConfig(units=(4, 2)), seed=4), train_by_hand)


def test_names_of_cleaned_checkpoints(tmp_path):
    for source, name, expected in (
        ("a.tar", "clp", "cleaned.tar"),
        ("a", "clp", "cleaned.pt"),
        ("model.safetensors.index.json", "clp", "cleaned.safetensors"),
        ("a.tar", "hid", "cleaned.pt"),
        ("extractor.pt", "clp", "cleaned.pt"),
    ):
        assert name_cleaned(tmp_path, ask(tmp_path / source, name)) == tmp_path / expected


@pytest.mark.parametrize(
    ("source", "name", "start"),
    [
        ("cleaned.pt", "clp", None),
        ("cleaned.pt", "hid", None),
        ("extractor.pt", "hid", None),
        ("a.pt", "hid", "extractor.pt"),
        ("a.pt", "hid", "deeper/../cleaned.pt"),
    ],
)
def test_nothing_that_is_read_is_replaced(source, name, start, tmp_path):
    (tmp_path / "deeper").mkdir()
    untrusted = UntrustedOptions(start=None if start is None else str(tmp_path / start))
    with pytest.raises(DataError, match=r"\.pt would be overwritten by this run; choose another folder with --out"):
        name_cleaned(tmp_path, ask(tmp_path / source, name, untrusted=untrusted))
    assert name_cleaned(tmp_path / "other", ask(tmp_path / source, name, untrusted=untrusted))


def test_what_a_method_does_not_start_from_may_be_replaced(tmp_path):
    untrusted = UntrustedOptions(start=str(tmp_path / "cleaned.pt"))
    assert name_cleaned(tmp_path, ask(tmp_path / "a.pt", "clp", untrusted=untrusted)) == tmp_path / "cleaned.pt"


def test_scores_are_written_without_the_release_s_text_of_masks(pruned, tmp_path):
    write_masks(tmp_path, pruned.outcome, "clp")
    tree, metadata = load_tree(tmp_path / "masks")
    assert metadata == {"placement": "unit", "method": "clp"}
    defended = pruned.outcome.defended
    for layer, values in defended.values.items():
        np.testing.assert_array_equal(tree["scores"][layer], values)
        np.testing.assert_array_equal(tree["pruned"][layer], masks.filters(defended.variables["masks"])[layer])
    assert set(tree) == {"scores", "pruned"}
    assert set(tree["scores"]) == set(defended.values) == {"0", "2"}
    assert not (tmp_path / "mask_values.txt").exists()


def test_masks_are_written_as_the_release_s_text_too(pruned, tmp_path):
    values = {layer: np.linspace(0, 1, len(row)) for layer, row in pruned.outcome.defended.values.items()}
    outcome = replace(pruned.outcome, defended=replace(pruned.outcome.defended, values=values, kind="mask"))
    write_masks(tmp_path, outcome, "rnp")
    tree, _ = load_tree(tmp_path / "masks")
    assert set(tree) == {"recovered", "pruned"}
    text = masks.read_mask_values(tmp_path / "mask_values.txt", values)
    np.testing.assert_allclose(masks.flatten(text), masks.flatten(values), rtol=0, atol=5.1e-5)


def test_where_weights_were_tuned_there_are_no_masks(pruned, tmp_path):
    defended = replace(pruned.outcome.defended, kind="weights", values={}, candidates=NO_CANDIDATES)
    write_masks(tmp_path, replace(pruned.outcome, defended=defended), "ft")
    assert list(tmp_path.iterdir()) == []


def test_the_cleaned_file_has_its_source_s_layout_and_no_card(pruned, small_victim, tmp_path):
    assert write_network(tmp_path / "cleaned.pt", pruned.case, pruned.outcome, pruned.request) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["cleaned.pt"]
    before, after = (
        load_model(path, normalization="0.3,0.3,0.3/0.3,0.3,0.3", image_shape=(8, 8, 3))
        for path in (small_victim, tmp_path / "cleaned.pt")
    )
    assert after.network == before.network
    expected = masks.bake(pruned.outcome.defended.variables, after.network.placement)
    jax.tree.map(np.testing.assert_array_equal, after.variables["params"], expected["params"])
    silent = [not np.asarray(after.variables["params"]["0"]["kernel"])[:, i].any() for i in range(20)]
    assert sum(silent) == 3


def card_of(path):
    card = read_card(path, read_checkpoint(path).sha256)
    assert card is not None
    return card


def test_a_new_network_is_written_with_its_extractor_their_cards_and_the_trigger(anew, small_victim, tmp_path):
    stored = small_victim.with_suffix(".trigger.npz")
    assert write_network(tmp_path / "cleaned.pt", anew.case, anew.outcome, anew.request) == ()
    names = ["cleaned.card.json", "cleaned.pt", "extractor.card.json", "extractor.pt"]
    if stored.is_file():
        names += ["cleaned.trigger.npz", "extractor.trigger.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    head, extractor = card_of(tmp_path / "cleaned.pt"), card_of(tmp_path / EXTRACTOR)
    assert head.attack == extractor.attack == card_of(small_victim).attack
    assert head.extractor is not None
    assert (head.extractor.path, head.extractor.sha256) == ("extractor.pt", extractor.sha256)
    assert (head.extractor.dim, extractor.extractor) == (16, None)
    for card in (head, extractor):
        assert (card.data, card.train_images, card.seed) == ("digits", 1297, 4)
        assert card.training["defense"] == "hid"
        assert card.training["units"] == [4, 2]
        assert (card.training["start"], card.augmentation) == (None, {"padding": 4, "flip": True})
    after = anew.outcome.after.metrics
    assert (head.acc, head.asr, head.ra) == (after.acc.value, after.asr.value, after.ra.value)
    model = open_model(str(tmp_path / "cleaned.pt"), SourceOptions(), anew.request.options.compute)
    assert model.extractor is not None
    assert model.network.architecture == HEAD.architecture
    expected = masks.bake(anew.outcome.defended.variables, HEAD.placement)
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], expected["params"])
    assert not model.variables["params"]["0"]["kernel"][:, 1].any()
    read = np.asarray(model.read(anew.case.test.batch).images)
    np.testing.assert_allclose(read, anew.outcome.sets.clean.images, rtol=1e-6)


def test_without_the_card_s_trigger_the_new_network_has_no_attack(small_victim, tmp_path):
    request = ask(small_victim, "hid", HidConfig(units=(4, 2)), trigger=TriggerOptions(attack="none"))
    done = work(small_victim, request, train_by_hand)
    write_network(tmp_path / "cleaned.pt", done.case, done.outcome, done.request)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cleaned.card.json", "cleaned.pt", "extractor.card.json", "extractor.pt",
    ]  # fmt: skip
    for name in ("cleaned.pt", EXTRACTOR):
        card = card_of(tmp_path / name)
        assert (card.attack, card.asr, card.ra) == (None, None, None)


def test_a_checkpoint_is_called_cleaned_where_the_result_supports_it(pruned, tmp_path, capsys):
    result = describe_run(pruned.request, pruned.case, pruned.outcome, (), None, (), {})
    supported = result.model_copy(update={"verdict": result.verdict.model_copy(update={"supported": True})})
    write_page(tmp_path, supported, pruned.case, pruned.outcome, tmp_path / "cleaned.pt", RunLog())
    assert f"\ncleaned checkpoint  {tmp_path / 'cleaned.pt'}\nreport " in capsys.readouterr().err


@pytest.mark.parametrize("known", [True, False])
def test_the_page_is_the_last_file_and_the_screen_has_the_figures(pruned, known, tmp_path, capsys):
    case, outcome = pruned.case, pruned.outcome
    if not known:
        case = replace(case, trigger=None)
    log = RunLog()
    result = describe_run(pruned.request, case, outcome, (), None, (), {})
    write_page(tmp_path, result, case, outcome, tmp_path / "cleaned.pt", log)
    shown = capsys.readouterr().err
    assert result.verdict.headline in shown
    assert not result.verdict.supported
    told = f"new checkpoint      {tmp_path / 'cleaned.pt'}  (the result does not support that a backdoor is removed)"
    assert f"\n{told}\nreport " in shown
    assert "cleaned checkpoint" not in shown
    assert f"{outcome.after.metrics.acc.value:.2%}" in shown
    page = (tmp_path / LAST).read_text("utf-8")
    assert result.verdict.headline in page
    assert ("Sample images" in page) == known
    assert page.count('alt="') >= (24 if known else 0)  # three views of eight images
    assert json.loads((tmp_path / "result.json").read_text())["method"] == "clp"
    last = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns if path.is_file() else 0)
    assert last.name == LAST
