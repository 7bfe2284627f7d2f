"""Stock checkpoints and transformers' automatic classes, against transformers' own class."""
# transformers' functions and classes carry few types.
# mypy: disable-error-code="no-untyped-call"

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama import modeling_llama as stock

from llama_ds import LlamaForCausalLM, LlamaModel, register, unregister
from llama_ds.layer.options import LayerOptions
from tests.support.llama_pair import GQA, V, config, pair, tokens


@pytest.fixture
def registered() -> Iterator[None]:
    register()
    yield
    unregister()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_checkpoints_are_the_same_in_both_directions(tmp_path: Path, tied: bool) -> None:
    ours, theirs = pair(tie_word_embeddings=tied, **GQA)
    directions: list[tuple[Any, Any]] = [
        (ours, stock.LlamaForCausalLM),
        (theirs, LlamaForCausalLM),
    ]
    for writer, reader_class in directions:
        folder = tmp_path / reader_class.__module__
        writer.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
        reader, info = reader_class.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        expected = writer.state_dict()
        assert reader.state_dict().keys() == expected.keys()
        assert all(torch.equal(v, expected[k]) for k, v in reader.state_dict().items())
        assert (reader.lm_head.weight is reader.model.embed_tokens.weight) == tied
    written = [folder.joinpath("config.json").read_text() for folder in tmp_path.iterdir()]
    assert written[0] == written[1]
    assert json.loads(written[0])["architectures"] == ["LlamaForCausalLM"]


def test_bf16_load(tmp_path: Path) -> None:
    ours, _ = pair()
    ours.save_pretrained(tmp_path)
    loaded = [
        model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        for model_class in (LlamaForCausalLM, stock.LlamaForCausalLM)
    ]
    assert torch.equal(*(model(tokens()).logits for model in loaded))
    assert loaded[0].model.rotary_emb.inv_freq.dtype == torch.float32
    # The fused layer rounds less often than the modules.
    loaded[0] = LlamaForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, layer_options=LayerOptions(fused=False)
    )
    assert not loaded[0].model.layer_options.fused
    losses = [model.train()(tokens(), labels=tokens()).loss for model in loaded]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)  # fp32 sums of equal bf16 logits


def test_missing_weights_get_their_initial_values(tmp_path: Path) -> None:
    ours, _ = pair()
    ours.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    dropped = ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"]
    kept = {name: 3 * weight for name, weight in weights.items() if name not in dropped}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, weights[name] if name in dropped else kept[name]), name
    inv_freq = ours.model.rotary_emb.inv_freq
    assert torch.equal(loaded.model.rotary_emb.inv_freq, inv_freq)


def test_device_map(tmp_path: Path) -> None:
    ours, _ = pair()
    ours.save_pretrained(tmp_path)
    for device_map in ("auto", {"model": "cpu", "lm_head": "disk"}):
        loaded = LlamaForCausalLM.from_pretrained(
            tmp_path, device_map=device_map, offload_folder=tmp_path / "offload"
        )
        assert torch.equal(loaded(tokens()).logits, ours(tokens()).logits)
        expected = ours(tokens(), labels=tokens(), skip_logits=True).loss
        assert torch.equal(loaded(tokens(), labels=tokens(), skip_logits=True).loss, expected)


def _auto_class(folder: Path | None = None) -> type[Any]:
    """What AutoModelForCausalLM builds from a folder, or from a configuration."""
    if folder is None:
        return type(AutoModelForCausalLM.from_config(config()))
    return type(AutoModelForCausalLM.from_pretrained(folder))


def test_register(tmp_path: Path, registered: None) -> None:
    ours, _ = pair()
    ours.save_pretrained(tmp_path)
    words = {"[UNK]": 0, **{f"w{i}": i for i in range(1, V)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[UNK]").save_pretrained(tmp_path)
    register()
    assert _auto_class(tmp_path) is LlamaForCausalLM
    assert _auto_class() is LlamaForCausalLM
    assert type(transformers.AutoModel.from_config(config())) is LlamaModel
    pipe = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
    assert type(pipe.model) is LlamaForCausalLM
    assert pipe("w5 w6", max_new_tokens=3, do_sample=False)[0]["generated_text"] != "w5 w6"
    unregister()
    assert _auto_class() is stock.LlamaForCausalLM
