"""The study's grid: compressions, arms and the presets that say which of them are run, where and for how long."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from study_trainers import DocumentedTrainer, FocalTrainer, TextBrewerTrainer, TorchdistillTrainer
from transformers import Trainer

from hf_compalign import AlignedDistillationTrainer, AlignmentArguments

# ---- compressions ----


@dataclass(frozen=True)
class Compression:
    """What is done to the reference before any training.

    Attributes:
        kind: what has its own learning rates.
        sparsity: of a pruning.
        chosen_on: the compression on which the learning rates of the kind are chosen.
    """

    kind: str
    sparsity: float | None = None
    chosen_on: str = ""


SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
COMPRESSIONS = {
    f"{kind}-{sparsity * 100:.0f}": Compression(kind, sparsity, f"{kind}-50")
    for kind, sparsity in product(("magnitude", "obs"), SPARSITIES)
} | {kind: Compression(kind, None, kind) for kind in ("structured", "int8")}

# ---- arms ----

LOGITS = {"preset": "logits"}


@dataclass(frozen=True)
class Arm:
    """One way to train a compressed model.

    Attributes:
        says: what it is, for the table's legend.
        trainer: None trains nothing.
        alignment: what differs from the defaults of `AlignmentArguments`.
        halfway: whether the weights are then put halfway between the start and the trained ones.
        package: what must be installed for it.
    """

    says: str
    trainer: type[Trainer] | None = AlignedDistillationTrainer
    alignment: Mapping[str, Any] = field(default_factory=dict)
    halfway: bool = False
    package: str = ""

    @property
    def arguments(self) -> AlignmentArguments | None:
        """Of an aligned training."""
        return AlignmentArguments(**self.alignment) if self.trainer is AlignedDistillationTrainer else None

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the terms of an aligned training."""
        return {} if self.arguments is None else self.arguments.weights()

    @property
    def asks(self) -> bool:
        """Whether the reference is asked in the training, for mixed inputs or for more than its logits."""
        return self.arguments is not None and (self.arguments.transfer > 0 or "hidden" in self.weights)

    @property
    def recipe(self) -> dict[str, Any]:
        """What a record says of it, so that a run with other weights is not taken for it."""
        trainer = None if self.trainer is None else self.trainer.__name__
        found: dict[str, Any] = {"trainer": trainer, "halfway": self.halfway}
        if self.arguments is not None:
            found |= {"weights": dict(self.weights), "transfer": self.arguments.transfer}
        return found


ARMS = {
    "none": Arm("the compressed model as it is", None),
    "ce": Arm("cross-entropy with the labels, the stock Trainer", Trainer),
    "kd": Arm("labels and KL at T = 2", alignment={"preset": "kd"}),
    "paper": Arm("labels, the reference's answers and its logits, equal weights", alignment={"preset": "paper"}),
    "logits": Arm("the reference's logits alone", alignment=LOGITS),
    "hidden": Arm("its logits and hidden states", alignment=LOGITS | {"hidden_weight": 1.0}),
    "logits_transfer": Arm("its logits, half of each batch mixed inputs", alignment=LOGITS | {"transfer": 0.5}),
    "focal": Arm("labels and KL at T = 2, six times where the reference is right", FocalTrainer),
    "trainer_kd": Arm("distillation as the documentation of transformers has it", DocumentedTrainer),
    "textbrewer": Arm("TextBrewer's loss as it is by default", TextBrewerTrainer, package="textbrewer"),
    "torchdistill": Arm("torchdistill's KDLoss, as its examples have it", TorchdistillTrainer, package="torchdistill"),
    "interpolation": Arm("halfway between the start and the CE-trained weights", Trainer, halfway=True),
}

# What the library's default is chosen from, and the compressions that count.
CANDIDATES = ("kd", "paper", "logits", "hidden")
COUNTED = ("magnitude-50", "obs-50", "obs-60", "obs-70", "int8")
# The arm that is the default.
OURS = next(name for name, arm in ARMS.items() if arm.alignment and arm.weights == AlignmentArguments().weights())

# ---- presets ----


@dataclass(frozen=True)
class Training:
    """Optimizer steps, their highest learning rate, and the rows in each."""

    steps: int
    learning_rate: float
    batch_size: int


@dataclass(frozen=True)
class Plan:
    """What is run in one setting.

    Attributes:
        reference: how the original is made.
        compressions: those of `COMPRESSIONS` to run.
        arms: those of `ARMS` to run.
        further: arms to run at a few of the compressions only: at those of ``few``.
        seeds: 0, 1, ...: of calibration, order and, with ``own_references``, the reference.
        steps: of every training of a compressed model.
        rates: the learning rates that each arm chooses from.
        int8_rates: the same for INT8, which starts nearer to its end.
        own_references: whether each seed has a reference of its own; else all have that of seed 0.
        train_rows: at most; None takes all.
        test_rows: at most, of each test part; None takes all.
        calibration_rows: of the compressions that look at data.
    """

    reference: Training
    compressions: tuple[str, ...]
    arms: tuple[str, ...]
    steps: int
    rates: tuple[float, ...]
    int8_rates: tuple[float, ...]
    further: tuple[str, ...] = ()
    few: tuple[str, ...] = ()
    seeds: int = 3
    own_references: bool = False
    train_rows: int | None = None
    test_rows: int | None = None
    calibration_rows: int = 512

    @property
    def places(self) -> list[tuple[str, str]]:
        """Each compression with each arm that is run at it."""
        found = [*product(self.compressions, self.arms), *product(self.few, self.further)]
        return [(compression, arm) for compression, arm in found if can_run(compression, arm)]

    def rates_of(self, kind: str) -> tuple[float, ...]:
        """To choose from for a kind of compression."""
        return self.int8_rates if kind == "int8" else self.rates


@dataclass(frozen=True)
class Cell:
    """A place in the grid. Where the learning rate is None, it is the chosen one."""

    setting: str
    seed: int
    compression: str
    arm: str
    learning_rate: float | None = None


def cells(plans: Mapping[str, Plan], seeds: Sequence[int] | None = None) -> Iterator[Cell]:
    """Seed by seed and setting by setting, so that a study that is cut short has seen all of them.

    What learning rates are chosen on comes first in its setting.
    """
    wanted = range(max(plan.seeds for plan in plans.values())) if seeds is None else seeds
    for seed, (setting, plan) in product(wanted, plans.items()):
        if seeds is None and seed >= plan.seeds:
            continue
        if seed == wanted[0]:
            yield from _tries(setting, plan)
        yield from (Cell(setting, seed, compression, arm) for compression, arm in plan.places)


def _tries(setting: str, plan: Plan) -> Iterator[Cell]:
    chosen_on = [(COMPRESSIONS[name].chosen_on, arm) for name, arm in plan.places if ARMS[arm].trainer is not None]
    for name, arm in dict.fromkeys(chosen_on):
        yield from (Cell(setting, 0, name, arm, rate) for rate in plan.rates_of(COMPRESSIONS[name].kind))


def can_run(compression: str, arm: str) -> bool:
    """Weights halfway between rounded ones are not rounded, so INT8 has no such arm."""
    return not (ARMS[arm].halfway and compression == "int8")


_MAIN = ("none", "ce", "kd", "paper", "logits", "hidden")
_TEXT = {"steps": 240, "rates": (2e-5, 8e-5, 3e-4), "int8_rates": (5e-6, 2e-5), "train_rows": 8_000, "test_rows": 2_500}
_TEXT |= {"calibration_rows": 2048}
_FURTHER = {"further": ("none", "ce"), "few": ("magnitude-60",)}  # what people do, to compare a whole recipe with
_LONG = _FURTHER | {"rates": (2e-5, 8e-5, 3e-4), "int8_rates": (5e-6, 2e-5), "calibration_rows": 4096}
_FEW = ("none", "ce", "logits", "hidden")
_HEAVIER = ("magnitude-50", "obs-50", "obs-60", "obs-70", "int8")
PRESETS: dict[str, dict[str, Plan]] = {
    "smoke": {
        "digits": Plan(
            Training(120, 1e-3, 64),
            ("magnitude-50", "obs-50"),
            _FEW,
            steps=30,
            rates=(3e-4, 1e-3),
            int8_rates=(1e-4,),
            seeds=1,
            own_references=True,
            calibration_rows=128,
        )
    },
    "cpu": {
        "digits": Plan(
            Training(600, 1e-3, 64),
            tuple(COMPRESSIONS),
            _MAIN,
            further=("focal", "interpolation", "trainer_kd", "textbrewer", "torchdistill"),
            few=("magnitude-50", "obs-50", "obs-70", "int8"),
            steps=300,
            rates=(1e-4, 3e-4, 1e-3),
            int8_rates=(5e-5, 2e-4),
            own_references=True,
        ),
        "cifar10": Plan(
            Training(1200, 4e-4, 64),
            ("magnitude-50", "obs-50", "obs-60", "int8"),
            ("none", "ce", "paper", "logits", "hidden"),
            steps=150,
            rates=(1e-4, 3e-4, 1e-3),
            int8_rates=(3e-5, 1e-4),
            test_rows=3_000,
            **_FURTHER,
        ),
        "sst2": Plan(Training(400, 5e-5, 32), ("magnitude-50", "obs-50", "int8"), _FEW, **_TEXT),
        "banking77": Plan(Training(500, 1e-4, 32), ("obs-50", "int8"), _FEW, **_TEXT),
    },
    # For a dozen processes that share one GPU, since small models leave most of it idle.
    "gpu": {
        "cifar10": Plan(
            Training(1500, 6e-4, 128),
            _HEAVIER,
            _MAIN,
            steps=600,
            rates=(1e-4, 5e-4),
            int8_rates=(3e-5, 1e-4),
            calibration_rows=4096,
            test_rows=5_000,
            **_FURTHER,
        ),
        "sst2": Plan(Training(1000, 5e-5, 64), _HEAVIER, (*_MAIN, "logits_transfer"), steps=800, **_LONG),
        "banking77": Plan(Training(900, 1e-4, 64), _HEAVIER, _MAIN, steps=500, **_LONG),
        "hatexplain": Plan(Training(400, 5e-5, 64), _HEAVIER, _MAIN, steps=400, **_LONG),
        "rte": Plan(Training(200, 5e-5, 64), ("obs-50", "int8"), _FEW, steps=200, **_LONG),
    },
}
