"""The tokenizer or image processor of a model."""

from pathlib import Path
from typing import Any

from hf_compalign._compat import has_tokenizer, image_processor_class
from hf_compalign.models.file import exported_files
from hf_compalign.tasks import Task


def load_processor(path: str | Path, task: Task) -> Any:
    """What reads texts, images or sounds, saved beside a model; for an exported file, perhaps one folder above.

    Raises:
        ValueError: there is none.
    """
    import transformers

    text, audio = task.model_input == "input_ids", task.reads_sounds
    auto_class = transformers.AutoTokenizer if text else _processor_class(audio=audio)
    files = exported_files(Path(path))
    if files:
        beside = files[0].absolute().parent
        path = beside if has_tokenizer(beside) or any(beside.glob("*processor_config.json")) else beside.parent
    try:
        if text and Path(path).is_dir() and not has_tokenizer(Path(path)):
            raise OSError("The folder holds no tokenizer file.")
        return auto_class.from_pretrained(str(path), trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # whatever damaged files make transformers and tokenizers raise
        kind = "tokenizer" if text else "feature extractor" if audio else "image processor"
        raise ValueError(
            f"No {kind} could be loaded from {str(path)!r}. Save it beside the model with save_pretrained, or pass "
            f"processing_class=. ({error})"
        ) from error


def _processor_class(*, audio: bool) -> Any:
    import transformers

    return transformers.AutoFeatureExtractor if audio else image_processor_class()
