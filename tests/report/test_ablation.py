import json

import pytest

from rnp_jax.document import to_json, write_text
from rnp_jax.errors import ResultError
from rnp_jax.report.ablation import Ablation, read_ablation


def test_round_trip_and_range(ablation: Ablation, tmp_path):
    write_text(tmp_path / "ablation.json", to_json(ablation))
    assert read_ablation(tmp_path / "ablation.json") == ablation
    document = json.loads(to_json(ablation))
    document["cells"][0]["rank_correlation"] = 1.5
    (tmp_path / "ablation.json").write_text(json.dumps(document))
    with pytest.raises(ResultError, match=r"rank_correlation: Input should be less than or equal to 1"):
        read_ablation(tmp_path / "ablation.json")
