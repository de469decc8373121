"""What is said of other copies of the network in a file: on the console, in result.json, in the report."""

import pytest
import torch

from rnp_jax.checkpoints import load_model, save_model
from rnp_jax.cli import main
from rnp_jax.pipeline.copies import describe_copies, tell_copies, warn_of_copies
from rnp_jax.report.schema import read_result
from tests.networks import build_random
from tests.runs import SMALL

STATE = build_random("resnet18").state_dict()
AVERAGED = {key: value * 0.75 if value.is_floating_point() else value for key, value in STATE.items()}
OTHER = "The file holds the same network with other weights in"
JUDGED = '"state_dict" is judged, and the cleaned network replaces both.'
BESIDE = {
    "state_dict": STATE,
    "best": {key: value.clone() for key, value in STATE.items()},
    "ema": {f"module.{key}": value for key, value in AVERAGED.items()},
    "shadow": {key: AVERAGED[key] for key in dict(build_random("resnet18").named_parameters())},
    "teacher": build_random("resnet18", width=8).state_dict(),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("copies") / "model.pt"
    torch.save(BESIDE, path)
    return load_model(path, normalization="half")


def test_each_copy_is_named_once_with_what_becomes_of_it(model):
    told = tell_copies(model.copies, model.state_dict, replaced=True)
    assert told == (
        'The file holds the same weights once more, in "best"; the cleaned network replaces it too.',
        f'{OTHER} "ema" behind the prefix "module.": {JUDGED} To judge the other, give --key "ema" --prefix "module.".',
        f'{OTHER} "shadow": {JUDGED}',
        'In the file, "teacher" has most of the network\'s names but does not fit it: it is left as it is.',
    )
    assert warn_of_copies(model.copies, model.state_dict, replaced=True) == told[1:]
    detected = tell_copies(model.copies, model.state_dict, replaced=False)
    assert detected[0].endswith('once more, in "best".')
    assert '"state_dict" is judged, and the other is not. To judge' in detected[1]


def test_the_document_lists_what_each_place_held_and_holds(model):
    found = [(each.key, each.prefix, each.weights, each.written) for each in describe_copies(model, "replaced")]
    assert found == [
        ("best", "", "equal", "replaced"),
        ("ema", "module.", "different", "replaced"),
        ("shadow", "", "different", "replaced"),
        ("teacher", "", "unlike", "kept"),
    ]
    assert {each.written for each in describe_copies(model, "dropped")} == {"dropped"}
    assert {each.written for each in describe_copies(model, "kept")} == {"kept"}


def test_weights_in_no_state_dict_are_said_and_left_out(tmp_path):
    """Also those in a dict that has most of the names and does not fit."""
    part = {key: value for key, value in AVERAGED.items() if not key.startswith("linear")}
    shadow = {f"ema_{key}": value for key, value in AVERAGED.items()}
    tree = {"state_dict": STATE, "past": list(AVERAGED.values()), "part": part, "a": {"b": shadow}}
    torch.save(tree, tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", normalization="half")
    told = tell_copies(model.copies, model.state_dict, replaced=True)
    assert [sentence.partition(" holds ")[0] for sentence in told] == [
        'In the file, "past"', 'In the file, "part"', 'In the file, "a/b"'
    ]  # fmt: skip
    assert told[0].endswith("tensors that are no state dict of it; the written file leaves them out.")
    assert warn_of_copies(model.copies, model.state_dict, replaced=False)[0].endswith("no state dict of it.")
    described = [describe_copies(model, "replaced"), describe_copies(model, "kept"), describe_copies(model, "dropped")]
    for found, fate in zip(described, ("dropped", "kept", "dropped"), strict=True):
        assert [(each.key, each.weights, each.written) for each in found] == [
            (key, "scattered", fate) for key in ("past", "part", "a/b")
        ]
    dropped = save_model(tmp_path / "cleaned.pt", model, model.variables)
    assert {place.partition("]")[0] for place in dropped} == {'data["past"', 'data["part"', 'data["a"'}
    again = load_model(tmp_path / "cleaned.pt", normalization="half").copies
    assert again.remains == again.fitting == ()


def test_a_crowd_of_copies_is_counted(tmp_path):
    past = [{key: value * (i + 1) for key, value in STATE.items()} for i in range(12)]
    torch.save({"state_dict": STATE, "past": past}, tmp_path / "m.pt")
    many = load_model(tmp_path / "m.pt", normalization="half")
    told = tell_copies(many.copies, many.state_dict, replaced=True)
    assert (len(told), told[-1]) == (12, "More such places in the file: 1.")  # one is equal


def test_defend_says_and_records_that_a_copy_was_replaced(small_victim, tmp_path, capsys):
    """And detect says that it did not judge it."""
    state = torch.load(small_victim, weights_only=True)["state_dict"]
    averaged = {key: value * 0.5 for key, value in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "m.pt")
    given = ("--data", "digits", "--image-size", "8", "--normalization", "half", "--image-shape", "8", "8", "3", *SMALL)
    out = tmp_path / "out"
    cost = ("--defense.size", "40", "--evidence", "never", "--sweep-images", "0", "--placement", "unit")
    assert main(["defend", str(tmp_path / "m.pt"), *given, *cost, "--method", "clp", "--out", str(out)]) == 0
    sentence = 'The file holds the same network with other weights in "model_ema": "model" is judged, and the cleaned'
    assert f"note: {sentence}" in capsys.readouterr().err
    result = read_result(out / "result.json")
    assert [(each.key, each.weights, each.written) for each in result.checkpoint.copies] == [
        ("model_ema", "different", "replaced")
    ]
    assert any(warning.startswith(sentence) for warning in result.warnings)
    assert "The network elsewhere in the file" in (out / "report.html").read_text()
    cleaned = torch.load(out / "cleaned.pt", weights_only=True)
    assert all(torch.equal(cleaned["model"][key], cleaned["model_ema"][key]) for key in state)
    assert main(["evaluate", str(tmp_path / "m.pt"), *given]) == 0
    assert (
        '"model" is judged, and the other is not. To judge the other, give --key "model_ema".'
        in capsys.readouterr().err
    )
