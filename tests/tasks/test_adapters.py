"""Laws of tasks/adapters.py: what is told of adapters' base, and of what they cover; whole runs: tests/flows/test_adapters.py."""

import json

import pytest

from tasks.adapters import check_quantised, check_scoring, coverage_text
from tasks.settings import build
from warehouse.connect import Warehouse


@pytest.fixture
def warehouse(tmp_path):
    with Warehouse(tmp_path / "wh") as opened:
        yield opened


def folder_with(path, weights=None, **entries):
    path.mkdir()
    if weights is None:
        (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **entries}))
    else:
        (path / "config.json").write_text(json.dumps(entries))
        (path / "model.safetensors").write_bytes(weights)
    return path


def configured(base, **model):
    return build({"data": {"train": "t", "validation": "v"}, "model": {"reference": "model", **model}}, base, "")


def test_base_of_adapters_is_compared_by_its_weights_where_it_can_be_found(warehouse, tmp_path, told):
    reference = folder_with(tmp_path / "model", b"weights")
    folder_with(tmp_path / "copy", b"weights", name="elsewhere")
    folder_with(tmp_path / "other", b"others!")
    config = configured(tmp_path)
    for number, base in enumerate(["model", None, str(tmp_path / "copy"), "copy"]):
        check_scoring(warehouse, config, reference, folder_with(tmp_path / f"fine{number}", base_model_name_or_path=base))
    assert told.text == ""
    with pytest.raises(ValueError, match=r"trained on other, whose weights are not those of model.reference"):
        check_scoring(warehouse, config, reference, folder_with(tmp_path / "wrong", base_model_name_or_path="other"))
    check_scoring(warehouse, config, reference, folder_with(tmp_path / "unknown", base_model_name_or_path="org/name"))
    assert "say that they were trained on org/name; whether that is model.reference model cannot be told" in told.text


def test_quantised_weights_are_in_no_scope(tmp_path):
    reference = folder_with(tmp_path / "model", b"weights", quantization_config={"quant_method": "any"})
    plain, mine = folder_with(tmp_path / "plain", b"weights"), folder_with(tmp_path / "mine")
    check_quantised(configured(tmp_path), reference, mine)
    check_quantised(configured(tmp_path), plain, plain)
    for base, scoring in ((reference, None), (reference, plain), (plain, reference)):
        with pytest.raises(ValueError, match=r"model are saved quantised and have no gradient.*or give adapters as model.scoring"):
            check_quantised(configured(tmp_path), base, scoring)


def test_coverage_says_what_is_covered_and_why_stability_covers_less():
    adapt = {"scope": "adapter weights", "num_covered": 3000, "covered_parameters": 0.0125, "covered_adapter_weights": 1.0}
    described = {"adapt": adapt, "stab": {**adapt, "num_covered": 1000, "covered_adapter_weights": 1 / 3, "why": "A has no gradient"}}
    assert coverage_text(described) == (
        "adapter weights only: 3,000 of them in scope (100.0%), 1.25% of all parameters; stability over 1,000 (33.3%): A has no gradient"
    )
    whole = {"adapt": {"covered_parameters": 1.0}, "stab": {"covered_parameters": 0.25}}
    assert coverage_text(whole) == "100.0% of the parameters covered by adaptation, 25.0% by stability"
    assert coverage_text({"adapt": {"covered_parameters": 0.5}, "stab": {}}).endswith("50.0% by stability")  # one scope for both
