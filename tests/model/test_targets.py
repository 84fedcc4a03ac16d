from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

import normc
from normc.errors import NormcError
from normc.model.targets import load_target, read_setting

TINY = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 11}


def made(tmp_path: Path, body: str, name: str = "made.py") -> str:
    path = tmp_path / name
    path.write_text(f"import torch\nfrom torch import nn\n{body}\n")
    return str(path)


def test_a_model_type_is_built_on_meta_with_its_head_and_sizes() -> None:
    model, inputs = load_target("hf:gpt2", TINY)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert inputs is None
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert tuple(model.get_parameter("transformer.wte.weight").shape) == (11, 8)


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        ("bert", {"num_hidden_layers": 1}, "BertForMaskedLM"),
        ("t5", {"num_layers": 1}, "T5ForConditionalGeneration"),
        ("vit", {"num_hidden_layers": 1}, "ViTForImageClassification"),
    ],
)
def test_the_head_fits_the_kind_of_model(kind: str, settings: dict[str, int], name: str) -> None:
    assert type(load_target(f"hf:{kind}", settings).model).__name__ == name


def test_a_folder_and_a_config_file_name_their_own_architecture(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "vocab_size": 11, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for target in (f"hf:{tmp_path}", f"hf:{tmp_path / 'config.json'}"):
        model = load_target(target, {"hidden_size": 32}).model
        assert type(model).__name__ == "LlamaForSequenceClassification"
        # head_dim follows hidden_size, as if the file had said 32.
        assert tuple(model.get_parameter("model.layers.0.self_attn.k_proj.weight").shape) == (16, 32)


def test_a_factory_gives_a_model_or_a_model_and_its_inputs(tmp_path: Path) -> None:
    path = made(tmp_path, "def build(width=3):\n    return nn.Linear(width, 2), torch.ones(1, width)")
    model, inputs = load_target(f"{path}:build", {"width": 5})
    assert isinstance(model, nn.Linear)
    assert tuple(inputs.shape) == (1, 5)
    assert isinstance(load_target("torch.nn:Flatten").model, nn.Flatten)


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    made(tmp_path, "WIDTH = 4", "neighbour_of_made.py")
    path = made(tmp_path, "from neighbour_of_made import WIDTH\nbuild = lambda: nn.Linear(WIDTH, 1)")
    assert load_target(f"{path}:build").model.get_parameter("weight").shape == (1, 4)


@pytest.mark.parametrize(
    ("target", "settings", "message", "fix"),
    [
        ("gpt2", {}, "'gpt2' is no target", "hf:gpt2"),
        ("hf:gpt2", {"n_layers": 3}, "has no 'n_layers'", "'n_layer'"),
        ("hf:llama", {"hidden_size": "wide"}, "refuses its settings", "--set"),
        ("nowhere.to.be.found:build", {}, "can't be imported", "install it"),
        ("torch.nn:Linea", {}, "has no 'Linea'", "'Linear'"),
        ("torch.nn:Linear", {}, "can't be called", "--set"),
        ("builtins:dict", {}, "is no torch.nn.Module", "example_inputs"),
        ("missing.py:build", {}, "there is no file 'missing.py'", "path"),
    ],
)
def test_a_wrong_target_says_what_to_write(target: str, settings: dict[str, object], message: str, fix: str) -> None:
    with pytest.raises(NormcError) as caught:
        load_target(target, settings)
    assert message in caught.value.problem
    assert fix in caught.value.fix


def test_an_unknown_name_that_the_hub_does_not_give_names_the_nearest_type(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(name: str) -> None:
        raise OSError(f"couldn't connect for {name}")

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", offline)
    with pytest.raises(NormcError, match="couldn't connect") as caught:
        load_target("hf:gtp2")
    assert "hf:gpt2" in caught.value.fix


def test_settings_are_json_or_text() -> None:
    assert read_setting("a=8") == ("a", 8)
    assert read_setting("a=1e-3") == ("a", 0.001)
    assert read_setting("a=True") == ("a", True)
    assert read_setting("a=gelu=x") == ("a", "gelu=x")
    with pytest.raises(NormcError, match="sets nothing"):
        read_setting("a")


def test_a_model_of_transformers_has_no_weights_but_its_buffers() -> None:
    """A table of positions is told from one of token types by the values of the buffers that index them."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    target = load_target("hf:bert", sizes)
    assert all(parameter.is_meta for parameter in target.model.parameters())
    assert not any(buffer.is_meta for buffer in target.model.buffers())
    plan = normc.plan(target.model, target.example_inputs)
    assert plan["bert.embeddings.position_embeddings.weight"].role == "position"
    assert plan["bert.embeddings.token_type_embeddings.weight"].role == "embedding"
