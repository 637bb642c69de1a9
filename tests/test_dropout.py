"""A student that trains without dropout, also where gradient checkpointing computes its layers twice."""

import pytest
import tiny
import torch
from every_task import CASES
from transformers import BartConfig, BartForSequenceClassification, OPTConfig, OPTForSequenceClassification

from hf_compalign.align.dropout import without_dropout

pytestmark = pytest.mark.numeric

DROPOUT = {"dropout": 0.5, "attention_dropout": 0.5, "init_std": 0.2, "pad_token_id": 0, "bos_token_id": 1}
SIZES = {"vocab_size": 40, "max_position_embeddings": 32, "num_labels": 3, "eos_token_id": 2}
BART = {
    "d_model": 16,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "activation_dropout": 0.5,
    "decoder_layerdrop": 0.9,
}
BART |= {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
OPT = {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def model_of(kind):
    torch.manual_seed(0)
    config, model = {
        "bart": (BartConfig(**SIZES, **DROPOUT, **BART), BartForSequenceClassification),
        "opt": (OPTConfig(**SIZES, **DROPOUT, **OPT), OPTForSequenceClassification),
    }[kind]
    return model(config)


def checkpointed(model, *, reentrant):
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]


def trained_once(model, run):
    """Its logits and gradients, and how often the last layer has computed."""
    ids = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    runs = []
    last = [module for name, module in model.named_modules() if name.endswith("fc1")][-1]
    hook = last.register_forward_hook(lambda *_: runs.append(1))
    logits = run(model, input_ids=ids)
    logits.square().sum().backward()
    hook.remove()
    return logits.detach(), torch.cat([one.grad.flatten() for one in model.parameters()]), len(runs)


@pytest.mark.parametrize("kind", ["bart", "opt"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_do_not_drop_out_either_time(kind, reentrant):
    """They call a function that asks for the mode of the layer, which must be that of a training."""

    def run(model, **inputs):
        with without_dropout(model):
            return model(**inputs).logits

    model = model_of(kind)
    logits, gradients, runs = trained_once(model.eval(), lambda model, **inputs: model(**inputs).logits)
    model.zero_grad()
    layers = checkpointed(model, reentrant=reentrant)
    with tiny.unchanged(model):
        own = [vars(layer)["_gradient_checkpointing_func"] for layer in layers]
        found, own_gradients, twice = trained_once(model.train(), run)
        assert [vars(layer)["_gradient_checkpointing_func"] for layer in layers] == own
    assert (runs, twice) == (1, 2)
    assert tiny.distance(found, logits) < tiny.ROUNDING
    assert tiny.distance(own_gradients, gradients) < tiny.ROUNDING
    # A training with dropout goes on as it did.
    again, _, twice = trained_once(model.train(), lambda model, **inputs: model(**inputs).logits)
    assert tiny.distance(again, logits) > 100 * tiny.ROUNDING
    assert twice <= 2


def test_the_cache_is_off_where_layers_are_checkpointed():
    """Layers of GPT-2 would write into it twice."""
    model = CASES["text-generation"].model(0).train()
    checkpointed(model, reentrant=False)
    with tiny.unchanged(model):
        assert model.config.use_cache
        with without_dropout(model):
            outputs = model(input_ids=torch.ones(2, 6, dtype=torch.long))
        outputs.logits.sum().backward()
    assert outputs.past_key_values is None


class Stack(torch.nn.Module):
    """As code on the Hub checkpoints its layers."""

    gradient_checkpointing = True

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())])
        self.checkpointed = 0

    def _gradient_checkpointing_func(self, function, *args):
        self.checkpointed += 1
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)

    def forward(self, values):
        for layer in self.layers:
            checkpoints = self.gradient_checkpointing and self.training
            values = self._gradient_checkpointing_func(layer.__call__, values) if checkpoints else layer(values)
        return values


def test_a_stack_that_checkpoints_its_layers_itself_goes_on_doing_so():
    model = torch.nn.Sequential(Stack()).train()
    values = torch.ones(3, 2)
    with without_dropout(model):
        found = model(values)
    assert model[0].checkpointed == 1
    assert torch.equal(found, model.eval()(values))
