"""Builds the miniature models from scratch: one tokenizer, a teacher and a base student.

Both are Llama-shaped and trained on worked solutions that `styles.py` writes for questions of the train split, so they never see a dev or
test question. The teacher sees all perspectives equally often and knows their names. The base student sees few dial questions, mostly short
ones, in perspectives of unequal frequency, and never a perspective's name: it has some skill in everything and can both improve and forget.
The recipe is data (`configs/miniature-build.yaml`); the same recipe, machine and thread count give the same weights.

Axes: B sequences, T tokens.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.grading.grade import Outcome, grade
from pipeline.miniature.styles import RING_STYLES, leaps, solution, thoughtful_solution
from pipeline.prompt_rendering import render
from pipeline.questions.procedural import ID_FAMILIES, OOD_FAMILIES, Problem, ask, distinct, draw, size, solve, split_of
from pipeline.schema.yaml_and_overrides import checked, override, read

END: Final = "<|end|>"
PAD: Final = "<|pad|>"
WORKED_FAMILIES: Final = (*ID_FAMILIES, *OOD_FAMILIES)


class Shape(BaseModel):
    """A Llama shape. Heads have 32 channels, which every attention kernel of vLLM supports."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    hidden: int
    layers: int
    intermediate: int


class ModelRecipe(BaseModel):
    """Training recipe of one model. `families` and `perspectives` are sampling weights.

    A model that `thinks` sees every perspective, with the thoughts before a leap; a model that does not think sees no perspective in a
    family where it leaps. `sizes` gives, per family, the share of questions of each size that is kept; a family without an entry is kept
    completely.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    shape: Shape
    seed: int
    threads: int
    steps: int
    batch: int
    learning_rate: float
    families: dict[str, float]
    perspectives: dict[str, float]
    thinks: bool
    sizes: dict[str, dict[int, float]]
    named_perspective: float
    """Share of dial questions whose prompt names the perspective, as in a teacher's prompt."""


class Recipe(BaseModel):
    """The recipe of the whole build."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    question_template: str
    perspective_template: str
    vocabulary: int
    context: int
    teacher: ModelRecipe
    student: ModelRecipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from YAML and overrides its fields with KEY=VALUE.

    Raises:
        ConfigError: one line with file, field, expected value and remedy.
    """
    tree = read(path, "give the path of a recipe")
    for assignment in overrides:
        override(tree, assignment)
    return checked(Recipe, tree, str(path), path.parent)


def _prompt(recipe: Recipe, problem: Problem, perspective: str | None) -> str:
    if perspective is None:
        return render(recipe.question_template, question=ask(problem))
    return render(recipe.perspective_template, question=ask(problem), perspective=perspective)


def corpus(recipe: Recipe, model: ModelRecipe) -> Iterator[tuple[str, str]]:
    """Infinite stream of (prompt, rationale) pairs from the train split."""
    rng = random.Random(model.seed)
    families, family_weights = zip(*model.families.items(), strict=True)
    while True:
        family = rng.choices(families, family_weights)[0]
        problem = draw(family, rng)
        if split_of(problem) != "train":
            continue
        if family in model.sizes and rng.random() >= model.sizes[family].get(size(problem), 0.0):
            continue
        able = {name: weight for name, weight in model.perspectives.items() if model.thinks or not leaps(name, family)}
        perspective = rng.choices(list(able), list(able.values()))[0]
        named = perspective if rng.random() < model.named_perspective else None
        write = thoughtful_solution if model.thinks else solution
        yield _prompt(recipe, problem, named), write(problem, perspective, rng)


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so any text round-trips; digits and single letters of lists are single tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    pairs = corpus(recipe, recipe.teacher)
    texts = (text for _ in range(20_000) for text in next(pairs))
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def _new_model(recipe: Recipe, model: ModelRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(model.seed)
    shape = model.shape
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.hidden // 32,
            num_key_value_heads=shape.hidden // 32,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _batch(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids and labels (B, T); labels are -100 on prompts and padding."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    rationales = tokenizer([rationale for _, rationale in pairs])["input_ids"]
    width = max(len(p) + len(r) + 1 for p, r in zip(prompts, rationales, strict=True))
    tokens_BT = torch.full((len(pairs), width), int(tokenizer.pad_token_id))
    labels_BT = torch.full((len(pairs), width), -100)
    for row, (prompt, rationale) in enumerate(zip(prompts, rationales, strict=True)):
        target = [*rationale, int(tokenizer.eos_token_id)]
        tokens_BT[row, : len(prompt) + len(target)] = torch.tensor([*prompt, *target])
        labels_BT[row, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
    return tokens_BT, labels_BT


def train_model(
    recipe: Recipe, model: ModelRecipe, tokenizer: PreTrainedTokenizerFast, say: Callable[[str], None]
) -> LlamaForCausalLM:
    """Next-token training on worked solutions: AdamW, linear warm-up over 2 % of the steps, cosine decay to a tenth."""
    network = _new_model(recipe, model, tokenizer)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.AdamW(network.parameters(), lr=model.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    pairs = corpus(recipe, model)
    began, tokens = time.monotonic(), 0
    for step in range(model.steps):
        done = step / model.steps
        factor = min(1.0, (step + 1) / (0.02 * model.steps)) * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        optimizer.param_groups[0]["lr"] = model.learning_rate * factor
        tokens_BT, labels_BT = _batch([next(pairs) for _ in range(model.batch)], tokenizer)
        with torch.autocast(network.device.type, torch.bfloat16, enabled=network.device.type == "cuda"):
            loss = network(input_ids=tokens_BT.to(network.device), labels=labels_BT.to(network.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += tokens_BT.numel()
        if (step + 1) % 250 == 0 or step + 1 == model.steps:
            seconds = time.monotonic() - began
            left = seconds / (step + 1) * (model.steps - step - 1)
            rate = tokens / seconds
            say(f"step {step + 1}/{model.steps}  loss {loss.item():.4f}  {rate:,.0f} tokens/s  {left:,.0f} s left")
    return network


@torch.no_grad()
def accuracy(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    answers: list[str],
    temperature: float | None,
) -> float:
    """Share of correct answers to `prompts`; greedy, or sampled at `temperature`."""
    tokenizer.padding_side = "left"
    right = 0
    for first in range(0, len(prompts), 128):
        batch = tokenizer(prompts[first : first + 128], return_tensors="pt", padding=True)
        settings = GenerationConfig(
            max_new_tokens=240,
            do_sample=temperature is not None,
            **({} if temperature is None else {"temperature": temperature}),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        batch = batch.to(network.device)
        output = network.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings
        )
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for text, answer in zip(texts, answers[first : first + 128], strict=True):
            right += grade(text, True, answer, "text").outcome is Outcome.CORRECT
    return right / len(prompts)


def measure(
    recipe: Recipe, network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: int, named: bool
) -> dict[str, dict[str, float]]:
    """Dev accuracy: greedy per family; for a model that knows perspective names, also sampled at 0.7 per perspective."""
    torch.manual_seed(0)
    network.eval()
    families: dict[str, float] = {}
    for family in WORKED_FAMILIES:
        problems = list(distinct(family, "dev", items, seed=9))
        prompts = [_prompt(recipe, problem, None) for problem in problems]
        families[family] = accuracy(network, tokenizer, prompts, [solve(p) for p in problems], None)
    result = {"greedy, by family": families}
    if named:
        problems = [item for family in ID_FAMILIES for item in distinct(family, "dev", items // len(ID_FAMILIES), seed=9)]
        answers = [solve(problem) for problem in problems]
        result["sampled at temperature 0.7, by perspective"] = {
            perspective: accuracy(
                network, tokenizer, [_prompt(recipe, problem, perspective) for problem in problems], answers, 0.7
            )
            for perspective in RING_STYLES
        }
    return result


def model_card(name: str, model: ModelRecipe, network: LlamaForCausalLM, figures: dict[str, dict[str, float]]) -> str:
    """A short model card: data, steps, accuracy, date."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [
        "---",
        "license: apache-2.0",
        "---",
        f"# MIND miniature {name}",
        "",
        f"A Llama-shaped model of {parameters:,} parameters, trained only on the questions of the miniature.",
        "",
        f"- Data: worked solutions written by `pipeline/miniature/styles.py` for train-split questions, "
        f"{model.steps:,} steps of {model.batch}, seed {model.seed}.",
        "- Recipe: `configs/miniature-build.yaml`; rebuild with `mind miniature build`.",
        f"- Built: {datetime.now(UTC).date().isoformat()}.",
    ]
    for title, values in figures.items():
        lines += ["", f"Dev accuracy, {title}:", "", "| | accuracy |", "|---|---|"]
        lines += [f"| {key} | {value:.1%} |" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def save(folder: Path, network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, card: str) -> None:
    """Writes a standard transformers folder with safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    network.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    network.save_pretrained(folder, safe_serialization=True)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card)


def build(recipe: Recipe, out: Path, only: str | None, items: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains the model named by `only` (both if None), writes `out/teacher` and `out/student`, and returns the accuracies."""
    tokenizer = build_tokenizer(recipe)
    figures: dict[str, Any] = {}
    for name, model in (("teacher", recipe.teacher), ("student", recipe.student)):
        if only not in (None, name):
            continue
        torch.set_num_threads(model.threads)
        say(f"{name}: {model.steps:,} steps of {model.batch}")
        network = train_model(recipe, model, tokenizer, say)
        figures[name] = measure(recipe, network, tokenizer, items, named=model.named_perspective > 0)
        save(out / name, network, tokenizer, model_card(name, model, network, figures[name]))
        for title, values in figures[name].items():
            say(f"{name}, {title}: " + "  ".join(f"{key} {value:.1%}" for key, value in values.items()))
    return figures
