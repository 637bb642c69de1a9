"""The card of a model that a training compressed."""

from typing import Any

from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from hf_compalign.measure.audit import Audit
from hf_compalign.measure.footprint import footprint
from hf_compalign.report.card import CardDetails, changed_options
from hf_compalign.ship.card import write_model_card

# What the card says of the training's arguments.
_REPORTED = ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")


def write_training_card(
    trainer: Any, audit: Audit, original: PreTrainedModel, *, compression: Any, **about: Any
) -> ModelCard:
    """Write the card into the trainer's output_dir, and push it to the Hub if the trainer pushes.

    Args:
        trainer: an `AlignedDistillationTrainer` that has trained and saved its model.
        audit: of the original and the saved model.
        original: whose answers were to be kept.
        compression: the `CompressionArguments` of the training.
        **about: of `CardDetails`, what neither knows: task, base_model, and the dataset.
    """
    args, alignment = trainer.args, trainer.alignment
    recipe = {
        "Compression": changed_options(compression),
        "Alignment": {f"{term}_weight": weight for term, weight in alignment.weights().items()}
        | changed_options(alignment),
        "Training": {name: getattr(args, name) for name in _REPORTED} | {"steps": trainer.state.global_step},
    }
    details = CardDetails(
        name=trainer.hub_model_id,
        tags=compression.tags,
        recipe=recipe,
        footprints=(footprint(original), footprint(trainer.model)),
        **about,
    )
    card = write_model_card(args.output_dir, audit, details=details)
    if args.push_to_hub:
        card.push_to_hub(trainer.hub_model_id, token=args.hub_token)
    return card
