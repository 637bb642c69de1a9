"""The flags of the compression: each reaches the callback, and none is ignored."""

import inspect
from dataclasses import fields

import pytest
from transformers import HfArgumentParser

from hf_compalign.compress import CompressionArguments
from hf_compalign.compress.callbacks import PruningCallback, QuantizationCallback, ShrinkCallback, Timing
from hf_compalign.compress.shrink import Budget


def parsed(flags):
    (arguments,) = HfArgumentParser(CompressionArguments).parse_args_into_dataclasses(flags.split())
    return arguments


@pytest.mark.parametrize(
    ("prefix", "callback"),
    [("shrink_", ShrinkCallback), ("pruning_", PruningCallback), ("quantization_", QuantizationCallback)],
)
def test_a_script_has_every_choice_of_the_callbacks(prefix, callback):
    options = {one.name: one for one in fields(CompressionArguments)}
    arguments = dict(inspect.signature(callback).parameters)
    del arguments["calibration"]  # data are no flag
    flags = {name: options["sparsity" if name == "sparsity" else prefix + name] for name in arguments}
    assert {option for option in options if option.startswith(prefix)} == {prefix + name for name in flags} - {
        "pruning_sparsity"
    }
    for name, argument in arguments.items():
        assert argument.default in (inspect.Parameter.empty, flags[name].default)
        assert flags[name].metadata["help"]


def test_every_flag_reaches_the_callback():
    flags = (
        "--sparsity 0.5 --pruning_pattern layer --pruning_schedule linear --pruning_begin 0.1 --pruning_end 0.8 "
        "--pruning_every 3 --pruning_score magnitude --pruning_include *.query *.key --pruning_exclude *layer.0*"
    )
    arguments = parsed(flags)
    (callback,) = arguments.callbacks()
    assert callback._recipe() == {
        "sparsity": 0.5,
        "pattern": "layer",
        "schedule": "linear",
        "begin": 0.1,
        "end": 0.8,
        "every": 3,
        "score": "magnitude",
        "include": ["*.query", "*.key"],
        "exclude": ["*layer.0*"],
    }
    assert arguments.callbacks()[0] is not callback


def test_shrinking_comes_before_pruning():
    flags = (
        "--shrink_heads 0.25 --shrink_ffn 0.5 --shrink_n_layers 1 --shrink_uniform --shrink_begin 0.1 --shrink_end 0.4 "
        "--shrink_score magnitude --shrink_schedule linear --shrink_every 2 --shrink_reconstruct"
    )
    shrinking, pruning = parsed(f"{flags} --sparsity 0.5 --pruning_begin 0.4").callbacks()
    assert shrinking.budget == Budget(heads=0.25, ffn=0.5, n_layers=1, uniform=True)
    assert (shrinking.score, shrinking.reconstruct) == ("magnitude", True)
    assert shrinking.timing == Timing("linear", 0.1, 0.4, every=2)
    assert pruning.timing == Timing("cubic", 0.4, 0.5)


@pytest.mark.parametrize("target", ["target_flops", "target_latency"])
def test_shrinking_to_a_target(target):
    (callback,) = CompressionArguments(**{f"shrink_{target}": 0.5}).callbacks()
    assert callback.budget == Budget(**{target: 0.5})


def test_quantizing_comes_last():
    flags = (
        "--quantization_scheme torchao-w4a8 --quantization_begin 0.6 --quantization_reconstruct "
        "--quantization_include *.query *.key --quantization_exclude *layer.0*"
    )
    others = "--shrink_ffn 0.5 --shrink_end 0.2 --sparsity 0.5 --pruning_begin 0.2"
    *_, quantizing = callbacks = parsed(f"{others} {flags}").callbacks()
    assert len(callbacks) == 3
    assert quantizing._recipe() == {
        "scheme": "torchao-w4a8",
        "begin": 0.6,
        "reconstruct": True,
        "include": ["*.query", "*.key"],
        "exclude": ["*layer.0*"],
    }


def test_nothing_is_pruned_by_default():
    assert CompressionArguments().callbacks() == []


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, []),
        ({"sparsity": 0.5}, ["pruning"]),
        ({"shrink_n_layers": 1}, ["pruning"]),
        ({"shrink_target_flops": 0.5}, ["pruning"]),
        ({"quantization_scheme": "torchao-w8"}, ["quantization"]),
        ({"shrink_ffn": 0.5, "shrink_end": 0.2, "sparsity": 0.5, "pruning_begin": 0.2}, ["pruning"]),
        ({"sparsity": 0.5, "quantization_scheme": "torchao-w8"}, ["pruning", "quantization"]),
    ],
)
def test_the_tags_say_what_was_done(options, tags):
    assert CompressionArguments(**options).tags == tags


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 80}, r"sparsity must be in \[0, 1\). Got 80. Did you mean 0.8?"),
        ({"sparsity": -0.1}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": 0.5, "pruning_end": 2.0}, "begin and end must be shares of the training"),
        ({"sparsity": 0.5, "pruning_pattern": "rows"}, "pattern must be one of layer, row, global, or N:M"),
        ({"pruning_end": 0.9}, "pruning_end=0.9 would be ignored: nothing is pruned. Set sparsity above 0"),
        ({"pruning_exclude": ["x"]}, r"pruning_exclude=\['x'\] would be ignored"),
        ({"shrink_ffn": 50}, r"ffn must be a share in \[0, 1\). Got 50. Did you mean 0.5?"),
        ({"shrink_target_flops": 0.5, "shrink_ffn": 0.5}, "target_flops decides how many heads and neurons go"),
        ({"shrink_reconstruct": True}, "shrink_reconstruct=True would be ignored: nothing is removed"),
        (
            {"shrink_uniform": True, "sparsity": 0.5},
            "shrink_uniform=True would be ignored: nothing is removed. Set shr",
        ),
        ({"quantization_scheme": "int8"}, "scheme must be one of onnxruntime-w8a8, "),
        ({"quantization_scheme": "quanto-w8", "quantization_begin": 1.0}, r"begin must be a share .* Got 1."),
        (
            {"quantization_begin": 0.5, "sparsity": 0.5},
            "quantization_begin=0.5 would be ignored: nothing is quantized. Set quantization_scheme, or",
        ),
        ({"quantization_exclude": ["x"]}, r"quantization_exclude=\['x'\] would be ignored"),
    ],
)
def test_bad_or_idle_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CompressionArguments(**options)
