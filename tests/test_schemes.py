"""The names of the schemes, and the record in the config, which a file brings along."""

import json
from types import SimpleNamespace

import pytest

from hf_compalign.compress.quantize import SCHEMES, Quantization, quantization_of, scheme_of


def test_names_say_what_the_schemes_are():
    letters = {"int8": "w8", "int4": "w4"}
    for name, scheme in SCHEMES.items():
        assert name == f"{scheme.backend}-{letters[scheme.weights]}{'a8' if scheme.activations else ''}"
        assert scheme_of(name) is scheme
        assert scheme.calibrated == (scheme.backend == "quanto" and scheme.activations is not None)


def test_an_unknown_scheme_is_refused_with_a_hint():
    with pytest.raises(ValueError, match="scheme must be one of onnxruntime-w8a8, .*Got 'torchao_w8a8'. Did you mean"):
        scheme_of("torchao_w8a8")
    with pytest.raises(ValueError, match="Got 'int8'.$"):
        scheme_of("int8")


@pytest.mark.parametrize("ranges", [None, {"a": 0.1, "b": 1 / 3}])
def test_the_record_survives_json(ranges):
    record = Quantization("quanto-w8a8", ("a", "b"), ranges, converted=True)
    values = json.loads(json.dumps(record.to_dict()))
    assert Quantization.from_dict(values) == record
    config = SimpleNamespace(compression={"version": 1, "quantization": values})
    assert quantization_of(SimpleNamespace(config=config)) == record


def test_a_model_without_a_record():
    assert quantization_of(SimpleNamespace(config=SimpleNamespace())) is None
    assert quantization_of(SimpleNamespace(config=SimpleNamespace(compression={"version": 1}))) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": []},
        {"layers": "a"},
        {"layers": [1]},
        {"converted": 1},
        {"scheme": None},
        {"ranges": {"a": float("nan")}},
        {"ranges": {"a": 0.0}},
        {"ranges": {"a": "1"}},
        {"ranges": [1.0]},
    ],
)
def test_a_malformed_record_is_refused(changes):
    values = {"scheme": "quanto-w8a8", "layers": ["a"], "converted": True} | changes
    with pytest.raises(ValueError, match="'quantization' must hold 'scheme', 'layers'"):
        Quantization.from_dict(values)


def test_a_record_of_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="scheme must be one of .*Got 'other-w2'"):
        Quantization.from_dict({"scheme": "other-w2", "layers": ["a"], "converted": False})


def test_a_record_that_is_no_dict_is_malformed():
    model = SimpleNamespace(config=SimpleNamespace(compression="shrink"))
    with pytest.raises(ValueError, match="config.compression of '' is malformed: it must be a dict with a version"):
        quantization_of(model)
