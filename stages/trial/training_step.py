"""Tries the training: one optimiser step as configured, started as the stage starts it: `python -m stages.trial.training_step ...`.

Launcher, engine, student, objective and step are those of the stage `training`; only the rows are made up (`longest_rows.py`), and the step
has one micro-batch per rank. With on-policy distillation the student writes, and the teacher is loaded beside it or asked, as in the stage.
A training on several hosts is tried with the ranks of one.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from pipeline.config.run import RunConfig
from pipeline.errors import StageFailed
from stages.training.launcher import check_machine, choose_port, launch, only_rank_environment
from stages.training.stage_config import Config, check, config_of
from stages.trial.outcome import Outcome, arguments_of, attempt, read_outcome

_MEMORY: Final = (
    "lower questions_per_micro_batch or max_length, set gradient_checkpointing, raise zero_stage, set offload, or use lora"
)
REMEDY: Final = f"correct what it names under training or student; if memory ran out, {_MEMORY}"


def on_this_host(config: Config) -> Config:
    """The configuration of one step with one micro-batch on each of this host's ranks."""
    training = config.training
    ranks = training.ranks // training.hosts
    alone = {"hosts": 1, "address": None} if training.hosts > 1 else {}
    smaller: dict[str, Any] = {"ranks": ranks, "questions_per_step": ranks * training.questions_per_micro_batch}
    policy = training.on_policy
    if policy is not None:
        # A round that writes as many texts together as one of the run may.
        every = min(policy.every, math.ceil(policy.rows / (training.questions_per_micro_batch * policy.texts)))
        smaller["on_policy"] = policy.model_copy(update={"every": every, "after": 0.0})
    return config.model_copy(update={"training": training.model_copy(update={**alone, **smaller})})


def _peak(engine: Any) -> str:
    """The largest peak memory of a rank so far, over all ranks."""
    import torch
    import torch.distributed as dist

    on_card = engine.device.type == "cuda"
    # Linux counts in KiB, and from the parent's peak on; the parent of a rank has loaded less than a rank has.
    most = torch.cuda.max_memory_allocated() if on_card else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.tensor(float(most), dtype=torch.float64, device=engine.device)
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    found = f"{float(peak) / 2**30:.2f} GiB"
    if not on_card:
        return f"{found} of main memory per rank"
    return f"{found} of {torch.cuda.get_device_properties(engine.device).total_memory / 2**30:.1f} GiB per GPU"


def seen(log: dict[str, Any], seconds: float, longest: int, peak: str, attention: str) -> Outcome:
    """The outcome of a step from its log record."""
    loss, norm = log["loss"], log["gradient_norm"]
    said = f"loss {loss:.4f}, gradient norm " + ("not recorded" if norm is None else f"{norm:.4f}")
    if "loss_own" in log:
        said += f", on own texts {log['loss_own']:.4f}"
    if not math.isfinite(loss) or (norm is not None and not math.isfinite(norm)):
        return Outcome(f"{said}: not finite", "check the student's weights; if they are sound, set training.precision to fp32")
    return Outcome(f"one step of {seconds:.1f} s, longest row {longest} tokens: {said}; peak {peak}; attention {attention}")


def take_step(config: Config) -> Outcome | None:
    """Take one step as one rank of `config`, in a process group that was joined before; only rank 0 has an outcome."""
    from pipeline.model_folders import load_tokenizer
    from pipeline.prompt_rendering import pad_token
    from pipeline.training.step import train_step
    from stages.training.own_texts import own_texts
    from stages.training.rank import start_engine, start_training_state
    from stages.trial.longest_rows import longest_rows

    tokenizer = load_tokenizer(config.student)
    data = longest_rows(config, len(tokenizer), pad_token(tokenizer))
    engine, config = start_engine(config, data)
    state = start_training_state(config, data, engine, None)
    rows = (data.row(n, int(data.mask_NK[n].nonzero()[0, 0])) for n in range(len(data)))
    prompts = {n: tokenizer.decode(row.tokens[: row.start]) for n, row in enumerate(rows)}
    with TemporaryDirectory() as folder, own_texts(state, config, tokenizer, prompts, Path(folder), 0) as state.own_texts:
        began = time.monotonic()
        log = train_step(state, 0)
        seconds = time.monotonic() - began
        peak = _peak(engine)
    attention = engine.module.student.config._attn_implementation
    longest = max(int(data.addresses_NK25[n][:, 0, 1].max()) for n in range(len(data)))
    return None if state.rank else seen(log, seconds, longest, peak, attention)


def as_rank(config: Config) -> Outcome | None:
    """Join the process group of the environment and take the step."""
    import torch.distributed as dist

    from stages.training.rank import join

    join(config.training)
    try:
        return take_step(config)
    finally:
        dist.destroy_process_group()


def try_step(run: RunConfig, file: Path) -> Outcome | None:
    """Start the ranks, in this process if there is only one; None if a rank writes the outcome to `file`."""
    whole = config_of(run)
    check(whole)
    config = on_this_host(whole)
    training = config.training
    check_machine(training)
    port = choose_port(training.port)
    if training.ranks == 1:
        os.environ.update(only_rank_environment(training, port))
        return as_rank(config)
    spec = file.with_name(f"{file.stem}.ranks")
    spec.write_text(json.dumps({"config": config.model_dump(mode="json"), "outcome": str(file)}))
    try:
        launch(training, str(spec), port, "stages.trial.training_step")
    except StageFailed:
        if read_outcome(file) is None:
            said = "a rank was killed, usually because memory ran out, or crashed"
            raise StageFailed(f"{said}; {_MEMORY}") from None
    return None


def main() -> None:
    """Entry point of the trial, and of every rank that it starts: torch's launcher sets RANK, and gives a rank its file alone."""
    if "RANK" in os.environ and len(sys.argv) == 2:
        document = json.loads(Path(sys.argv[1]).read_text())
        attempt(partial(as_rank, Config.model_validate(document["config"])), Path(document["outcome"]), REMEDY)
        return
    run, file, _ = arguments_of("training_step")
    attempt(partial(try_step, run, file), file, REMEDY)


if __name__ == "__main__":
    main()
