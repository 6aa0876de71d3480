"""Writes a first configuration from five answers: teacher, student, training sources, evaluation sources, number of GPUs.

A model is a folder, or a hub name and revision as NAME@REVISION; a teacher may also be a server's address and the name of a served model. A
question source is a file, or the name of a benchmark that `mind sources` lists. Everything else is derived, or is a default that is written
out so that it can be seen and changed. A set is named after its file, or after the folder where the file is named after a split only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from itertools import count as count_from
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import ConfigError
from pipeline.model_folders import settings_of
from pipeline.questions.named_benchmarks import entries

TEMPLATE: Final = Path(__file__).with_name("starter.yaml")
_FILES: Final = (".parquet", ".jsonl", ".csv")
_SPLIT: Final = re.compile(r"(train|test|val|valid|validation|dev|eval)(-\d+-of-\d+)?", re.IGNORECASE)
_WITHOUT_A_NAME: Final = ("data", "main", "default")
"""Folders of hub data sets that say nothing about what they contain."""


class StarterAnswers(NamedTuple):
    """The five answers, a run name, and the CPU cores of this machine. `outside` are out-of-distribution evaluation sources."""

    name: str
    teacher: str
    student: str
    train: Sequence[str]
    evaluate: Sequence[str]
    outside: Sequence[str]
    gpus: int
    cores: int


def _is_address(answer: str) -> bool:
    return answer.startswith(("http://", "https://"))


def _server(answer: str, engine: dict[str, Any]) -> dict[str, Any]:
    """The teacher's sampling engine: its server if the answer is an address, otherwise `engine`."""
    if not _is_address(answer):
        return engine
    address, _, name = answer.partition(" ")
    if not name.strip():
        raise ConfigError(f"--teacher {answer}: no model name; give the address, a space and the name of the served model")
    return {"kind": "openai", "base_url": address, "served_model": name.strip()}


def _model(role: str, answer: str) -> dict[str, Any]:
    """Model configuration.

    Raises:
        ConfigError: the answer is neither a folder nor a pinned hub name.
    """
    if role == "teacher" and _is_address(answer):
        return {"served": True}
    folder = Path(answer)
    if folder.is_dir():
        return {"path": str(folder.resolve())} | ({} if _chats(folder) else {"chat": False})
    name, _, revision = answer.partition("@")
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(
            f"--{role} {answer}: no such folder; give a folder, or a hub name and revision: {name}@COMMIT, 40 hex digits"
        )
    return {"name": name, "revision": revision}


def _questions(answer: str, wanted: Sequence[str]) -> dict[str, str]:
    """A source; for a named benchmark, the first of the `wanted` splits that it has."""
    if answer.endswith(_FILES):
        if not Path(answer).is_file():
            raise ConfigError(f"{answer}: no such file; correct the path")
        return {"kind": "file", "path": str(Path(answer).resolve())}
    entry = entries().get(answer)
    if entry is None:
        raise ConfigError(
            f"{answer}: neither a {', '.join(_FILES)} file nor a known benchmark; `mind sources` lists the benchmarks"
        )
    split = next((name for name in wanted if name in entry.splits), None)
    if split is None:
        raise ConfigError(
            f"{answer}: has no suitable split (it has {', '.join(entry.splits)}); give another benchmark or a file"
        )
    return {"kind": "named", "name": answer, "split": split}


def _chats(folder: Path) -> bool:
    """Whether a local model has a chat template; hub models are assumed to have one."""
    settings = folder / "tokenizer_config.json"
    said = settings_of(settings) if settings.is_file() else {}
    return (folder / "chat_template.jinja").is_file() or bool(said.get("chat_template"))


def _name(words: str) -> str:
    """Converts text to a valid name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words).strip("-.") or "run"


def _set_names(sources: Sequence[str]) -> list[str]:
    """A name for every evaluation source, all different.

    Raises:
        ConfigError: a source is given twice.
    """
    twice = next((source for place, source in enumerate(sources) if source in sources[:place]), None)
    if twice is not None:
        raise ConfigError(f"{twice}: is given twice for evaluation; give it once")
    names: list[str] = []
    for source in sources:
        path = Path(source).resolve() if source.endswith(_FILES) else Path(source)
        words = [_name(path.stem), *(_name(folder.name) for folder in path.parents if folder.name)]
        telling = [word for word in words if not _SPLIT.fullmatch(word) and word not in _WITHOUT_A_NAME] or words
        wider = ("-".join(reversed(telling[:count])) for count in range(1, len(telling) + 1))
        numbered = (f"{telling[0]}-{number}" for number in count_from(2))
        names.append(next(name for name in chain(wider, numbered) if name not in names))
    return names


def _flow(value: Any) -> str:
    """Formats a value as single-line YAML (JSON is a subset of YAML)."""
    return json.dumps(value, ensure_ascii=False)


def starter(answers: StarterAnswers) -> str:
    """The configuration's text.

    Raises:
        ConfigError: an invalid answer.
    """
    gpus = answers.gpus
    given = [*(("id", source) for source in answers.evaluate), *(("ood", source) for source in answers.outside)]
    evaluation = [
        {"name": name, "group": group, "source": _questions(source, ("test", "validation"))}
        for name, (group, source) in zip(_set_names([source for _, source in given]), given, strict=True)
    ]
    engine: dict[str, Any] = {"kind": "vllm", "dtype": "bfloat16" if gpus else "float32", "max_context": 4096}
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        name=_flow(_name(answers.name)),
        teacher=_flow(_model("teacher", answers.teacher)),
        student=_flow(_model("student", answers.student)),
        train=[_flow(_questions(source, ("train",))) for source in answers.train],
        evaluation=[_flow(item) for item in evaluation],
        sampled_by=_flow(_server(answers.teacher, {**engine, "tensor_parallel": gpus} if gpus > 1 else engine)),
        engine=_flow(engine),
        precision="bf16" if gpus else "fp32",
        ranks=max(1, gpus),
        threads=None if gpus else answers.cores,
        per_step=32 if 32 % max(1, gpus) == 0 else 8 * gpus,
    )
