"""Sounds: read from files and arrays, asked and audited."""

import io

import numpy as np
import pytest
import tiny
import torch
from commands import call, error_of
from datasets import Audio, Dataset
from scipy.io import wavfile
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperForAudioClassification,
)

from hf_compalign import AuditOptions, Columns, audit, predict
from hf_compalign.compress import prunable_weights
from hf_compalign.data import RowError, sound_of, with_sounds
from hf_compalign.models import sample_inputs

pytestmark = pytest.mark.numeric

RATE = 800
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NAMES = {"id2label": {0: "low", 1: "high"}, "label2id": {"low": 0, "high": 1}}


def wav2vec2(seed=0, **config):
    torch.manual_seed(seed)
    shape = {"conv_dim": [8, 8], "conv_kernel": [5, 3], "conv_stride": [4, 2], "num_conv_pos_embeddings": 4}
    shape |= {"num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "initializer_range": 0.3}
    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZES, **shape, **NAMES, **config)).eval()


def extractor():
    return Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=False)


def tones(n, *, seconds=0.1):
    """Low and high tones in turn."""
    times = np.arange(int(seconds * RATE)) / RATE
    return [0.5 * np.sin(2 * np.pi * (20 if row % 2 == 0 else 80) * times + row).astype(np.float32) for row in range(n)]


def wav(samples, rate=RATE):
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, samples)
    return buffer.getvalue()


def files(n):
    held = [{"bytes": wav(tone), "path": f"/sounds/{row}.wav"} for row, tone in enumerate(tones(n))]
    labels = [["low", "high"][row % 2] for row in range(n)]
    return Dataset.from_dict({"audio": held, "label": labels}).cast_column("audio", Audio(decode=False))


def test_files_are_read_at_the_rate_of_the_model():
    tone = tones(1)[0]
    np.testing.assert_array_equal(sound_of({"bytes": wav(tone), "path": None}, RATE), tone)
    for kind, scale, center in ((np.int16, 32768, 0), (np.int32, 2**31, 0), (np.uint8, 128, 128)):
        stored = np.round(tone.astype(np.float64) * scale * 0.9 + center).astype(kind)
        both = np.stack([stored, stored], axis=1)  # two channels
        np.testing.assert_allclose(sound_of({"bytes": wav(both), "path": None}, RATE), 0.9 * tone, atol=1 / 100)
    slow = sound_of({"bytes": wav(tones(1, seconds=1)[0]), "path": None}, RATE // 2)
    assert len(slow) == RATE // 2
    np.testing.assert_allclose(slow[50:-50], tones(1, seconds=1)[0][::2][50:-50], atol=0.01)


def test_the_answers_are_the_models_own_for_files_and_for_arrays(tmp_path):
    model, rows = wav2vec2(), files(6)
    found = predict(model, rows, processing_class=extractor(), batch_size=4)
    values = torch.tensor(np.stack(extractor()(tones(6), sampling_rate=RATE)["input_values"]))
    with torch.no_grad():
        assert tiny.distance(found.logits, model(values).logits) < tiny.ROUNDING
    assert (found.label_names, found.labels.tolist()) == (("low", "high"), [0, 1] * 3)
    arrays = Dataset.from_dict({"sound": [tone.tolist() for tone in tones(6)]})
    how = {"processing_class": extractor(), "columns": Columns(audio="sound")}
    again = predict(model, arrays, **how)
    assert tiny.distance(again.logits, found.logits) < tiny.ROUNDING
    # A batch of several lengths is padded; a row on its own is not.
    uneven = Dataset.from_dict({"sound": [tone[: 60 + 4 * row].tolist() for row, tone in enumerate(tones(4))]})
    assert predict(model, uneven, batch_size=4, **how).logits.shape == (4, 2)
    model.save_pretrained(tmp_path)
    extractor().save_pretrained(tmp_path)
    assert tiny.distance(predict(tmp_path, rows).logits, found.logits) < tiny.ROUNDING


def test_two_models_are_audited_on_sounds():
    rows = files(20)
    options = AuditOptions(processing_class=extractor(), contents=True)
    found = audit(wav2vec2(0), wav2vec2(3), rows, options=options)
    assert (found.n, found.n_examples) == (20, None)
    assert 0 < found.metrics["mismatch_rate"] <= 1
    assert {item.name for item in found.items} <= {f"{row}.wav" for row in range(20)}
    assert all(item.name and not item.texts for item in found.items)


def test_the_commands_find_sounds_in_a_named_column(tmp_path):
    for name, seed in (("old", 0), ("new", 3)):
        wav2vec2(seed).save_pretrained(tmp_path / name)
        extractor().save_pretrained(tmp_path / name)
    old, new, data, baseline = (str(tmp_path / name) for name in ("old", "new", "rows.jsonl", "baseline.npz"))
    sounds = {"sound": [tone.tolist() for tone in tones(20)], "label": ["low", "high"] * 10}
    Dataset.from_dict(sounds).to_json(data)
    found = audit(old, new, Dataset.from_json(data), options=AuditOptions(columns=Columns(audio="sound")))
    named = ["--dataset", data, "--audio-column", "sound"]
    assert f"{found.metrics['cie']} of 20" in call("audit", old, new, *named).stdout
    call("record", old, "--output", baseline, *named)
    assert f"{found.metrics['cie']} of 20" in call("compare", baseline, new, *named).stdout
    assert "holds the sounds" in error_of(call("audit", old, new, "--dataset", data))


def test_several_labels_of_a_sound_are_as_many_items():
    torch.manual_seed(0)
    shape = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 8}
    model = ASTForAudioClassification(ASTConfig(**SIZES, **shape, **NAMES, problem_type="multi_label_classification"))
    reads = ASTFeatureExtractor(sampling_rate=16000, num_mel_bins=8, max_length=16)
    rng = np.random.default_rng(0)
    rows = Dataset.from_dict({"sound": rng.normal(size=(3, 3000)).tolist(), "labels": [[1, 0], [0, 1], [1, 1]]})
    found = predict(model.eval(), rows, processing_class=reads, columns=Columns(audio="sound"))
    assert found.examples.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.labels.tolist() == [1, 0, 0, 1, 1, 1]
    with torch.no_grad():
        spectra = torch.tensor(np.array(reads(rows["sound"][:], sampling_rate=16000)["input_values"]))
        assert tiny.distance(found.logits[:, 1], model(spectra).logits.flatten()) < tiny.ROUNDING


def test_what_is_no_sound_is_refused(tmp_path):
    model, reads = wav2vec2(), extractor()
    (tmp_path / "a.wav").write_bytes(b"no sound")
    broken = Dataset.from_dict({"audio": [str(tmp_path / "a.wav")]})
    how = {"processing_class": reads, "columns": Columns(audio="audio")}
    with pytest.raises(ValueError, match=r"Row 0: The sound '.*a.wav' cannot be read. Only WAV files are read here"):
        predict(model, broken, **how)
    whole = Dataset.from_dict({"audio": [[1, 2]]})
    with pytest.raises(ValueError, match=r"holds no sounds. Got List.*int64.*\(Lists of whole numbers are on a scale"):
        predict(model, whole, **how)
    with pytest.raises(RowError, match=r"finite numbers, one for each sample. Got an array of shape \[0\]"):
        sound_of([], RATE)
    with pytest.raises(ValueError, match="Row 1 has nothing in the column 'audio'"):
        with_sounds(Dataset.from_dict({"audio": [[0.1], None]}), reads, "audio")
    with pytest.raises(ValueError, match="holds the sounds. Got the columns 'audio'; 0 of them are of type Audio"):
        predict(model, broken, processing_class=reads)
    with pytest.raises(ValueError, match="needs a feature extractor. Got TokenizersBackend"):
        predict(model, files(2), processing_class=tiny.tokenizer())
    with pytest.raises(ValueError, match="reads texts. Got 'audio' as the audio column: leave it out"):
        predict(tiny.bert(), tiny.reviews(), processing_class=tiny.tokenizer(), columns=Columns(audio="audio"))


def test_made_up_sounds_have_the_shape_that_a_model_reads():
    shape = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 8}
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    models = {
        (2, 16, 8): ASTForAudioClassification(ASTConfig(**SIZES, **shape)),
        (2, 8, 20): WhisperForAudioClassification(WhisperConfig(**sizes, num_mel_bins=8, max_source_positions=10)),
        (2, 4000): wav2vec2(),
    }
    for size, model in models.items():
        (made,) = sample_inputs(model).values()
        assert tuple(made.shape) == size
        assert model(made).logits.shape == (2, 2)
    weights = prunable_weights(models[2, 16, 8])
    assert weights
    assert not any(name.startswith("classifier") for name in weights)
