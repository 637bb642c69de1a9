"""Applications for a loan, made up and written out as text: a table whose groups follow different rules, by design.

An application reads "resident , nurse , age 35 , income 60 , debt 20 , years 7 , asks 15". The numbers are drawn
independently of each other and of the status, in steps of 5 but for the years in the job; each is one token. With

    i = (income - 55) / 25,  d = (debt - 30) / 20,  y = (years - 7.5) / 5,  a = (asks - 22.5) / 12

all of about unit variance, a loan is granted where s + e > 0, with e logistic noise of scale 0.5 and s by the status:

    resident (70 % of the rows)   s = i - d + y - a / 2
    newcomer (20 %)               s = i + d - a / 2       debt is a record of trust, and years in the job say nothing
    student  (10 %)               s = o - a               o is 1 for a clerk, teacher or nurse and -1 for the others

So the status of a minority is read from one token that turns the sign or the weight of others, and fewer rows teach it:
what a compression takes from a rule that was seen rarely is a gap between the groups.
"""

import numpy as np
from datasets import ClassLabel, Dataset
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

STATUS = ("resident", "newcomer", "student")
SHARES = (0.7, 0.2, 0.1)
JOBS = ("clerk", "teacher", "nurse", "driver", "cook", "painter")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "age", "income", "debt", "years", "asks", *STATUS, *JOBS)
LABELS = ("refused", "granted")
NOISE = 0.5


def tokenizer() -> BertTokenizer:
    """Each word and each number is one token."""
    words = (*WORDS, *map(str, range(100)))
    return BertTokenizer(vocab={word: place for place, word in enumerate(words)})


def untrained() -> BertForSequenceClassification:
    """A BERT of two layers, 32 wide, without dropout: it is small for what it has to learn."""
    config = BertConfig(
        vocab_size=len(WORDS) + 100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
    )
    return BertForSequenceClassification(config)


def applications(n: int, *, seed: int) -> tuple[Dataset, list[str]]:
    """Rows with "text" and "label", and the status of each."""
    rng = np.random.default_rng(seed)
    status = rng.choice(len(STATUS), size=n, p=SHARES)
    job = rng.integers(len(JOBS), size=n)
    steps = {"age": (4, 14), "income": (3, 20), "debt": (0, 13), "asks": (1, 9)}
    columns = {name: 5 * rng.integers(low, high, size=n) for name, (low, high) in steps.items()}
    columns["years"] = rng.integers(0, 16, size=n)
    i, d = (columns["income"] - 55) / 25, (columns["debt"] - 30) / 20
    y, a = (columns["years"] - 7.5) / 5, (columns["asks"] - 22.5) / 12
    by_status = np.stack([i - d + y - a / 2, i + d - a / 2, np.where(job < 3, 1, -1) - a])
    granted = by_status[status, np.arange(n)] + rng.logistic(scale=NOISE, size=n) > 0
    order = ("age", "income", "debt", "years", "asks")
    numbers = [" , ".join(f"{name} {columns[name][row]}" for name in order) for row in range(n)]
    texts = [f"{STATUS[s]} , {JOBS[j]} , {rest}" for s, j, rest in zip(status, job, numbers, strict=True)]
    rows = Dataset.from_dict({"text": texts, "label": granted.astype(int)})
    return rows.cast_column("label", ClassLabel(names=list(LABELS))), [STATUS[s] for s in status]
