"""Files laid out as the projects' own training code writes them."""

import pytest

from rnp_jax.torch_io.sources import SOURCES, name_source

WEIGHTS = {"conv1.weight": 0, "linear.weight": 0}
ROOTS = {
    "BackdoorBench, attack_result.pt": "model_name num_classes model data_path img_size clean_data bd_train bd_test",
    "BackdoorBench, defense_result.pt": "model_name num_classes model",
    "WaNet": "netC schedulerC optimizerC best_clean_acc best_bd_acc identity_grid noise_grid",
    "Input-Aware": "netC netG netM optimizerC optimizerG schedulerC schedulerG best_acc_clean epoch opt",
    "LIRA, second phase": "atkmodel netC optimizerC clean_schedulerC best_clean_acc best_poison_acc",
    "LIRA, first phase, or BackdoorBox's LIRA": "atkmodel clsmodel tgtoptimizer trainlosses epoch",
    "BackdoorBox, LIRA": "atkmodel model optimizerC clean_schedulerC best_clean_acc best_poison_acc",
    "BackdoorBox, IAD": "model modelG modelM optimizerC optimizerG schedulerC schedulerG epoch",
    "BackdoorBox, Blind": "model nc_model",
    "NAD": "epoch state_dict best_clean_acc best_bad_acc optimizer",
    "ABL": "epoch state_dict best_infect optimizer",
    "RNP or ABL": "epoch state_dict clean_acc bad_acc optimizer",
    "rnp_jax": "state_dict epoch clean_acc bad_acc",
    "TrojAI": "class_name state_dict",
    "I-BAU or kuangliu's pytorch-cifar": "net acc epoch",
}


@pytest.mark.parametrize(("name", "keys"), ROOTS.items())
def test_the_keys_beside_the_weights_name_the_project(name, keys):
    assert name_source(dict.fromkeys(keys.split(), 0), WEIGHTS).name == name


def test_every_source_is_tested_and_none_hides_a_later_one():
    assert {source.name for source in SOURCES} == set(ROOTS)
    for i, source in enumerate(SOURCES):
        assert name_source(dict.fromkeys(source.keys, 0), WEIGHTS) == source, i


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (WEIGHTS, "a plain state dict"),
        (WEIGHTS | {"bn1.neuron_noise": 0}, "ANP, or RNP's masked networks"),
        (WEIGHTS | {"classifier.fc.weight": 0}, "TrojanZoo"),
    ],
)
def test_a_plain_state_dict_is_told_by_its_tensors(names, name):
    assert name_source(names, names).name.startswith(name)


def test_other_files_have_no_source():
    assert name_source({"weights": WEIGHTS, 3: 0}, WEIGHTS).name == "not known"
    assert name_source([1, 2], WEIGHTS).name == "not known"
