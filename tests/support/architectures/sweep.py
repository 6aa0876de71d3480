"""Asks every causal language model architecture in transformers in which form it is trained right, and checks the answer.

Each architecture is built as small as its configuration allows, with random weights in fp32. `right_form` says how it would be trained;
the losses of one question's rows and the gradient of their weighted sum in that form must then be those of each row alone through the
model's own forward. Where the configuration has a window, this is done twice: wider and narrower than the rows.

Configurations are derived, not listed: one small value per field name is applied to every configuration class and its nested ones,
per-layer lists keep one layer of each kind that the default configuration has, and special tokens beyond the vocabulary are moved into it.
`sizes.py` has these values, and what differs in single architectures. Default initialisation is nearly linear and hides errors, so weights
are drawn with a standard deviation that keeps activations at order one. Each architecture runs in a forked process with a time limit.

    python -m tests.support.architectures.sweep [NAME ...]

prints one line per architecture; without names it writes `docs/students.md`.

Axes: P wanted positions, T tokens, V vocabulary, R rows.
"""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pipeline.errors import ModelError
from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.objective import rationale_losses, token_losses
from pipeline.student.self_check import right_form
from pipeline.student.shared_prefix_packing import packed
from pipeline.student.token_losses import StudentLosses, losses_of
from tests.support.architectures.sizes import (
    CAUSES,
    EXCEPTIONS,
    LEFT_OUT,
    NARROW,
    SMALL,
    TIES,
    VARIANTS,
    VOCABULARY,
    WIDE,
    WINDOWS,
)
from tests.support.runs import REPOSITORY

PAGE: Final = REPOSITORY / "docs" / "students.md"
NAMES: Final = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS} - set(LEFT_OUT))
PROMPT: Final = [11, 12, 13, 14, 15, 16]
QUESTION: Final = [
    TokenRow(PROMPT + rest, len(PROMPT), (len(PROMPT) + len(rest) - 2, len(PROMPT) + len(rest)))
    for rest in (
        [31, 32, 33, 34, 35, 36, 37],
        [31, 32, 33, 44, 45, 46, 47, 48, 49, 50, 51],
        [61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74],
    )
]
WEIGHTS: Final = torch.tensor([0.5, 0.3, 0.2])
CLOSE: Final = 1e-3
"""Largest relative error of losses and gradient."""


class Verdict(NamedTuple):
    """An architecture's form with wide and narrow windows (`packed`, `padded` or `refused`), why, and how wrong it is in that form.

    `error` is empty if losses and gradient are right, or if it is refused.
    """

    name: str
    wide: str
    narrow: str = ""
    own_head: bool = False
    why: str = ""
    error: str = ""


def small_fields(kind: Any, window: int, more: dict[str, Any]) -> dict[str, Any]:
    """Field values that make a configuration of class `kind` small; `more` has the last word, and may hold nested fields."""
    names = {field.name: field.default for field in dataclasses.fields(kind)}
    fields = {name: value for name, value in SMALL.items() if name in names}
    fields |= {name: 2 * window if name == "local_attention" else window for name in WINDOWS if name in names}
    for name, default in names.items():
        if name.endswith(("_token_id", "_token_index")) and isinstance(default, int) and default >= VOCABULARY:
            fields[name] = 3
        elif "vocab" in name and isinstance(default, int) and default >= VOCABULARY:
            fields[name] = VOCABULARY
    fields |= {name: value for name, value in {"vocab_size": VOCABULARY, "pad_token_id": 0}.items() if name in names}
    if "kv_lora_rank" in names:
        fields["num_key_value_heads"] = SMALL["num_attention_heads"]
    for name, nested in kind.sub_configs.items():
        if "model_type" in more.get(name, {}):
            fields[name] = small_fields(CONFIG_MAPPING[more[name]["model_type"]], window, more[name])
        elif dataclasses.is_dataclass(nested) and name in names:
            fields[name] = small_fields(nested, window, more.get(name, {}))
    return fields | one_layer_of_each_kind(kind) | {name: value for name, value in more.items() if name not in kind.sub_configs}


def one_layer_of_each_kind(kind: Any) -> dict[str, Any]:
    """The per-layer lists of the default configuration, reduced to one layer of each kind, and at least two layers."""
    try:
        default = kind(**({"use_sliding_window": True} if hasattr(kind, "use_sliding_window") else {}))
    except Exception:  # noqa: BLE001 - some classes cannot be built without their parts
        return {}
    layers = getattr(default, "num_hidden_layers", None)
    names = {field.name for field in dataclasses.fields(kind)}
    lists = {
        name: value
        for name, value in vars(default).items()
        if name in names and isinstance(value, list | tuple) and len(value) == layers and len(set(map(str, value))) <= 4
    }
    if not lists:
        return {}
    kinds = list({str(each): each for each in zip(*lists.values(), strict=True)}.values())[:4]
    kinds = kinds * 2 if len(kinds) == 1 else kinds
    return {name: [each[index] for each in kinds] for index, name in enumerate(lists)} | {"num_hidden_layers": len(kinds)}


def build(model_type: str, window: int, more: dict[str, Any]) -> Any:
    """The small model with weights of a fixed seed, in evaluation mode."""
    kind = CONFIG_MAPPING[model_type]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**small_fields(kind, window, copy.deepcopy(more))))
    torch.manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape)
        with torch.no_grad():
            parameter.copy_(parameter + 0.1 * noise if parameter.dim() < 2 else noise * parameter.shape[-1] ** -0.5)
    return model.float().eval()


Result = tuple[Tensor, dict[str, Tensor]]


def result(model: Any, losses_R: Tensor) -> Result:
    """Losses per row, and the gradient of their weighted sum."""
    model.zero_grad()
    torch.autograd.backward((losses_R * WEIGHTS).sum())
    return losses_R.detach(), {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


def reference(model: Any) -> Result:
    """Each row alone through the model's own forward."""
    losses = []
    for row in QUESTION:
        logits_TV = model(input_ids=torch.tensor([row.tokens]), use_cache=False).logits[0]
        losses.append(token_losses(logits_TV[row.start - 1 : -1], torch.tensor(row.tokens[row.start :])).mean())
    return result(model, torch.stack(losses))


def trained(wrapped: StudentLosses, item: Batch) -> Result:
    """The way of training: a batch through `StudentLosses`."""
    tokens_P = losses_of(wrapped, item, torch.zeros(0, dtype=torch.long), torch.device("cpu")).losses_P
    return result(wrapped.student, rationale_losses(tokens_P, item.row_P, len(QUESTION)))


def difference(found: Result, expected: Result) -> float:
    """The larger of the relative errors of losses and gradient."""
    loss = float((found[0] - expected[0]).abs().max() / expected[0].abs().max())
    zero = torch.zeros(())
    wrong, whole = (
        sum(float((found[1].get(name, zero) * one - grad).square().sum()) for name, grad in expected[1].items()) ** 0.5
        for one in (1, 0)
    )
    return max(loss, wrong / whole)


def error_line(error: BaseException) -> str:
    """Type and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines[: 3 if 'Validation' in type(error).__name__ else 1])[:260]}"


def form_of(name: str, window: int) -> Verdict:
    """The form of one architecture with one window, checked."""
    model_type, more = VARIANTS.get(name, (name, {}))
    model = build(model_type, window, EXCEPTIONS.get(model_type, {}) | more)
    expected = reference(model)
    try:
        form = right_form(model, QUESTION, 0, "rows")
    except ModelError as error:
        return Verdict(name, "refused", why=str(error).split(", so that")[0])
    spans = rationale_spans(QUESTION)
    item = batch(QUESTION, spans, 0) if form.packing == "none" else packed(QUESTION, spans, [0] * len(QUESTION), 0)
    wrong = difference(trained(StudentLosses(model, own_head=form.own_head), item), expected)
    error = "" if wrong <= CLOSE else f"{form}: losses or gradient off by {wrong:.1g}"
    return Verdict(name, "padded" if form.packing == "none" else "packed", "", form.own_head, form.reason, error)


def examine(name: str) -> Verdict:
    """The forms of one architecture with a wide and, if it has one, a narrow window."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kind = CONFIG_MAPPING[VARIANTS.get(name, (name, {}))[0]]
    nested = [part for part in kind.sub_configs.values() if dataclasses.is_dataclass(part)]
    wide = form_of(name, WIDE)
    if not any(field.name in WINDOWS for part in (kind, *nested) for field in dataclasses.fields(part)):
        return wide
    narrow = form_of(name, NARROW)
    return wide._replace(narrow=narrow.wide, why=wide.why or narrow.why, error=wide.error or narrow.error)


def run_all(names: Sequence[str], limit: float = 120, at_once: int = 2) -> Iterator[Verdict]:
    """Examines architectures in forked processes, `at_once` at a time; one that takes longer than `limit` seconds is ended."""
    fork = multiprocessing.get_context("fork")

    def work(name: str, end: Any) -> None:
        try:
            end.send(examine(name))
        except BaseException as error:  # noqa: BLE001 - reported by the parent
            end.send(Verdict(name, "", error=error_line(error)))

    waiting, running = list(names), dict[str, tuple[Any, Any, float]]()
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            mine, its = fork.Pipe()
            process = fork.Process(target=work, args=(name, its), daemon=True)
            process.start()
            its.close()
            running[name] = process, mine, time.monotonic()
        for name, (process, end, began) in list(running.items()):
            late = time.monotonic() - began > limit
            if not (end.poll(0.02) or late):
                continue
            try:
                yield end.recv() if end.poll() else Verdict(name, "", error=f"no result after {limit:.0f} s")
            except EOFError:
                process.join(5)
                yield Verdict(name, "", error=f"process ended with {process.exitcode}")
            process.kill()
            process.join()
            del running[name]


HEAD: Final = """# Which students can be trained?

For everyone who chooses a student. Before the first step MIND asks the student itself: the losses of packed rows, and of padded ones, must
be those of each row alone through the student's own forward ([self_check.py](../pipeline/student/self_check.py)). Packed rows are used
where they are right. Where they are not, rows are padded, which is right and slower, and the log says why. A student that is not right in
a padded batch either is refused before the teacher is paid for. `mind doctor CONFIG --try` asks without a run.

Every causal architecture of the installed transformers was asked, as small as its configuration allows, with random weights in fp32, with
windows wider and narrower than the rows. The gradient in the chosen form was compared as well.
`python -m tests.support.architectures.sweep` writes this page; a test fails when it is not current. *Own head*: the model's logits are
more than a projection of its last hidden states (scales, caps, further layers), so its own code computes them, all at once.
"""


def _group(title: str, names: Sequence[str]) -> str:
    text = textwrap.fill(", ".join(names), 140, break_long_words=False, break_on_hyphens=False)
    return f"\n## {title} ({len(names)})\n\n{text}\n" if names else ""


def _table(title: str, verdicts: Sequence[Verdict]) -> str:
    rows = [f"| {item.name} | {CAUSES.get(item.name, item.why).replace('|', '/')} |" for item in verdicts]
    return "\n".join([f"\n## {title} ({len(rows)})\n", "| architecture | why |", "|---|---|", *rows, ""])


def page(verdicts: Sequence[Verdict]) -> str:
    """The text of docs/students.md."""
    good = sorted(item for item in verdicts if not item.error or item.name in TIES)
    packed_ones = [item for item in good if item.wide == "packed" and item.narrow in ("", "packed")]
    left = [Verdict(name, "", why=why) for name, why in sorted(LEFT_OUT.items())]
    return (
        HEAD
        + _group("Packed", [item.name for item in packed_ones if not item.own_head])
        + _group("Packed, own head", [item.name for item in packed_ones if item.own_head])
        + _table("Packed within the window, padded beyond it", [i for i in good if (i.wide, i.narrow) == ("packed", "padded")])
        + _table("Padded", [item for item in good if item.wide == "padded" and item.narrow != "refused"])
        + _table("Refused", [item for item in good if "refused" in (item.wide, item.narrow)])
        + _table("Not asked", left)
    )


def main() -> None:
    """Command line."""
    verdicts = []
    for verdict in run_all(sys.argv[1:] or NAMES):
        print(verdict, flush=True)
        verdicts.append(verdict)
    if not sys.argv[1:]:
        PAGE.write_text(page(verdicts))


if __name__ == "__main__":
    main()
