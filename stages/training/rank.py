"""Runs one rank of training: loads the student into DeepSpeed, takes the steps, exports the result.

The log of the steps since the last checkpoint is committed before the next checkpoint. On resume, log shards newer than the valid
checkpoint are removed, so no step is logged twice and the losses are those of an uninterrupted run.

Axes: N questions of the set, K perspectives, F features.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import deepspeed
import pyarrow as pa
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from pipeline.analysis.accuracy_numbers import ALL_SETS
from pipeline.config.training import Training
from pipeline.errors import BadInput, MindError, StageFailed
from pipeline.metanet.inertia import InertiaState, filtered, observe
from pipeline.metanet.measured_lag import MOST_STEPS, QUESTIONS, measured_lag
from pipeline.metanet.network import MetaNet
from pipeline.metanet.optimizer import metanet_optimizer
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.parameter_groups import parameter_groups
from pipeline.prompt_rendering import pad_token
from pipeline.student.lora import adapt
from pipeline.student.self_check import right_form
from pipeline.student.token_losses import DTYPES, StudentLosses
from pipeline.training.step import TrainingState, train_step
from pipeline.training.student_engine import StudentEngine
from pipeline.training.training_set import TrainingSet, held_out, training_subset
from stages.core.progress import Progress, measured_path
from stages.core.summaries import TrainingSummary
from stages.training.checkpoint import VALID_CHECKPOINT, load_checkpoint, save_checkpoint
from stages.training.dev_scores import DevLog, open_dev_log
from stages.training.files import are_written, open_training_set, wait_for_training_files, write_training_files
from stages.training.launcher import REJECTION_FILE
from stages.training.own_texts import own_texts, prompts_of
from stages.training.stage_config import Config
from storage.artifact import Artifact
from storage.atomic import read_parquet, write_bytes, write_parquet
from storage.backend import ObjectStore
from storage.errors import StorageError
from storage.mirror import Mirror
from storage.store import Store

STEPS: Final = pa.schema(
    [
        ("step", pa.int64()),
        *(
            (name, pa.float64())
            for name in ("loss", "loss_sft", "loss_consistency", "loss_meta", "kept", "effective_number", "temperature")
        ),
        ("alpha_K", pa.list_(pa.float64())),
        ("coverage_K", pa.list_(pa.float64())),
        ("losses_K", pa.list_(pa.float64())),
        ("widened", pa.int64()),
        ("tokens", pa.int64()),
        ("outside_consistency", pa.int64()),
        ("tokens_passed", pa.int64()),
        ("tokens_probed", pa.int64()),
        *(
            (name, pa.float64())
            for name in ("learning_rate", "metanet_learning_rate", "gradient_norm", "seconds", "tokens_per_second")
        ),
    ]
)


def step_schema(training: Training) -> pa.Schema:
    """Columns of the steps' log: more with soft targets and own texts."""
    found = STEPS if training.soft_targets is None else STEPS.append(pa.field("loss_soft", pa.float64()))
    names = () if training.on_policy is None else ("loss_own", "seconds_writing", "seconds_scoring")
    for name in names:
        found = found.append(pa.field(name, pa.float64()))
    return found


def load_training_set(config: Config, synthesis: Artifact, scratch: Path, tokenizer: Any) -> TrainingSet:
    """Tokens, features and base losses of all kept rationales, from files that rank 0 writes if they do not exist."""
    if dist.is_initialized() and dist.get_rank():
        wait_for_training_files(scratch)
    elif not are_written(scratch):
        write_training_files(config, synthesis, tokenizer, scratch)
    data = open_training_set(scratch, pad_token(tokenizer))
    training = config.training
    wanted = training.perspectives
    if wanted is None and not training.hold_out:
        return data
    wanted_K = torch.tensor([wanted is None or item.name in wanted for item in config.perspectives])
    return training_subset(data, wanted_K, held_out(len(data), training.hold_out, config.seed), training.questions_per_step)


def deepspeed_config(training: Training) -> dict[str, Any]:
    """DeepSpeed's settings for our training settings. A micro-batch is counted in questions."""
    share = training.ranks * training.questions_per_micro_batch
    zero: dict[str, Any] = {"stage": training.zero_stage}
    if training.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if training.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": training.questions_per_step,
        "train_micro_batch_size_per_gpu": training.questions_per_micro_batch,
        "gradient_accumulation_steps": training.questions_per_step // share,
        "gradient_clipping": training.clip,
        "zero_optimization": zero,
        "bf16": {"enabled": training.precision == "bf16"},
        # In bfloat16 the sum over micro-batches would depend on their number.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own CPU Adam would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def start_engine(config: Config, data: TrainingSet) -> tuple[Any, Config]:
    """The student in a DeepSpeed engine, and the configuration with a packing that is right for it.

    Raises:
        ModelError: the student cannot be trained in batches.
    """
    training = config.training
    student = load_causal_model(config.student, DTYPES[training.precision])
    if torch.cuda.is_available() and training.zero_stage < 3:
        student.to(torch.device("cuda", torch.cuda.current_device()))
    form = right_form(student, data.longest_rows(), data.pad, training.packing)
    if form.reason and int(os.environ.get("RANK", "0")) == 0:
        print(f"training: {form.reason}; rows are padded instead, which is right and slower", flush=True)
    training = training.model_copy(update={"packing": form.packing})
    return engine_of(training, student, config.seed, form.own_head), config.model_copy(update={"training": training})


def engine_of(training: Training, student: Any, seed: int, own_head: bool = False) -> Any:
    """A loaded student in a DeepSpeed engine, with PyTorch's AdamW so that nothing is compiled."""
    if training.lora is not None:
        torch.manual_seed(seed)  # the same random adapters on every rank and after every restart
        adapt(student, training.lora)
    if training.gradient_checkpointing:
        # Reentrant checkpointing computes no gradient behind frozen embeddings.
        student.gradient_checkpointing_enable({"use_reentrant": False})
    student.train()
    model = StudentLosses(student, own_head=own_head)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, training.weight_decay), lr=training.learning_rate, betas=(0.9, 0.95),
        fused=True,  # one pass over all parameters; on a CPU it takes a tenth of the time
    )  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(training))
    return engine


def start_training_state(config: Config, data: TrainingSet, engine: StudentEngine, metanet_file: Path | None) -> TrainingState:
    """Student, MetaNet and inertia state before the first step. Inertia starts from the base student's losses."""
    training = config.training
    torch.manual_seed(config.seed)
    metanet = MetaNet(len(config.perspectives), data.features_NKF.shape[-1], config.metanet)
    if metanet_file is not None:
        metanet.load_state_dict(load_file(metanet_file))
    inertia = InertiaState.empty(*data.mask_NK.shape)
    observe(inertia, training.inertia, torch.arange(len(data)), data.base_losses_NK, data.mask_NK)
    metanet.to(engine.device)
    optimizer = metanet_optimizer(metanet, training.metanet_rate)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    return TrainingState(training, config.objective, data, engine, metanet, optimizer, inertia, config.seed, rank, ranks)


def _commit_log(draft: Path, logs: list[dict[str, Any]], step: int, names: list[str], training: Training) -> None:
    table = pa.Table.from_pylist(logs, schema=step_schema(training))
    table = table.replace_schema_metadata({b"perspectives": json.dumps(names).encode()})
    write_parquet(draft / f"steps-{step:06d}.parquet", table)


def _forget_log_after(draft: Path, step: int) -> None:
    for path in (*draft.glob("steps-*.parquet"), *draft.glob("dev-*.parquet")):
        if int(path.stem.rpartition("-")[2]) > step:
            path.unlink()


def _check_log(draft: Path, first: int) -> None:
    """Refuse to resume if steps before the checkpoint are missing from the log, since they cannot be repeated."""
    logged = sum(read_parquet(path, ["step"]).num_rows for path in draft.glob("steps-*.parquet"))
    if logged != first:
        raise StageFailed(
            f"{draft}: its log has {logged} steps, but the checkpoint is at step {first}; "
            f"remove {draft} and {draft.with_suffix('.scratch')} to start training again"
        )


def check_finite(log: Mapping[str, Any], training: Training, kept: int) -> None:
    """Ends a training whose losses or gradients are no numbers: all weights would be none from this step on, and so would a checkpoint.

    `kept`: the step of the last checkpoint. Every rank has the same log, so all of them end.

    Raises:
        BadInput: the step, what is not finite, and the likely cause.
    """
    names = {"loss": "loss", "gradient_norm": "gradient norm", "loss_meta": "MetaNet's loss"}
    found = [f"{said} {log[name]}" for name, said in names.items() if log[name] is not None and not math.isfinite(log[name])]
    if not found:
        return
    if log["step"] == 0:
        cause = (
            "in the first step, so the student's weights are likely damaged; try `mind doctor CONFIG --try`, or another student"
        )
    else:
        rates = f"training.learning_rate {training.learning_rate:g} or training.metanet_rate {training.metanet_rate:g}"
        precise = " or set training.precision to fp32," if training.precision != "fp32" else ""
        cause = f"likely because {rates} is too high; lower it,{precise} then run again"
    checkpoint = f"the checkpoint after {kept} steps is kept" if kept else "there is no checkpoint yet"
    raise BadInput(f"training: step {log['step'] + 1} of {training.steps}: {', '.join(found)}; {checkpoint}; {cause}")


def train(
    config: Config,
    synthesis: Artifact,
    draft: Path,
    scratch: Path,
    progress: Progress,
    mirror: Mirror | None = None,
    questions: Artifact | None = None,
) -> None:
    """Take all steps from the last checkpoint on, and export the student. `questions` has the dev sets, if there are dev scores."""
    tokenizer = load_tokenizer(config.student)
    data = load_training_set(config, synthesis, scratch, tokenizer)
    engine, config = start_engine(config, data)
    state = start_training_state(config, data, engine, synthesis.path("metanet.safetensors"))
    training = config.training
    first = load_checkpoint(state, scratch)
    main = state.rank == 0
    names = [item.name for item in config.perspectives]
    if main:
        _forget_log_after(draft, first)
        _check_log(draft, first)
        measured_path(progress.path).unlink(missing_ok=True)  # an earlier process's steps
        progress.start("optimiser steps", training.steps, "steps", first)
    dev = open_dev_log(state, config, tokenizer, questions, draft, scratch, first)
    logs: list[dict[str, Any]] = []
    began, tokens, kept = time.monotonic(), 0, first
    prompts = prompts_of(state, synthesis, names, training.steps)
    with own_texts(state, config, tokenizer, prompts, draft, first) as own:
        state.own_texts = own
        for step in range(first, training.steps):
            at = time.monotonic()
            log = train_step(state, step)
            check_finite(log, training, kept)
            seconds = time.monotonic() - at
            spent = {} if own is None else {f"seconds_{name}": value for name, value in own.seconds.items()}
            logs.append({**log, **spent, "seconds": seconds, "tokens_per_second": log["tokens"] / seconds})
            tokens += log["tokens"]
            scores = dev.after(step + 1)
            if main:
                progress.measured({"step": step, "row": logs[-1], "perspectives": names, "dev": scores})
                right = f", dev {scores[ALL_SETS]:.1%} right" if scores else ""
                progress.advance(1, f"loss {log['loss']:.4f}, {tokens / (time.monotonic() - began):,.0f} tokens/s{right}")
            if (step + 1) % training.checkpoint_every == 0 or step + 1 == training.steps:
                if main:
                    _commit_log(draft, logs, step + 1, names, training)
                    dev.commit(step + 1)
                save_checkpoint(state, scratch, step + 1)
                kept = step + 1
                if main:
                    dev.forget_other_students()
                if main and mirror is not None:
                    mirror.send_changes(last=VALID_CHECKPOINT)
                logs = []
    dev.export()
    if main:
        _finish(config, state, draft, scratch, dev)


def _lag(state: TrainingState) -> int | str | None:
    """The measured lag of MetaNet on training questions, for the summary; None if the weights do not follow MetaNet."""
    config, data = state.config, state.data
    if config.mixture.weights != "metanet":
        return None
    index = torch.randperm(len(data), generator=torch.Generator().manual_seed(state.seed))[:QUESTIONS]
    steps = measured_lag(
        state.metanet, state.metanet_optimizer, config.metanet_rate, data.features_NKF[index], data.mask_NK[index],
        filtered(state.inertia, config.inertia, index), state.objective, config.questions_per_step, config.metanet_accumulation,
    )  # fmt: skip
    return f">{MOST_STEPS}" if steps is None else steps


def _finish(config: Config, state: TrainingState, draft: Path, scratch: Path, dev: DevLog) -> None:
    import pyarrow.parquet as pq

    training = config.training
    save_file({k: v.contiguous() for k, v in state.metanet.state_dict().items()}, draft / "metanet.safetensors")
    save_file({k: v.contiguous() for k, v in state.inertia.tensors().items()}, draft / "inertia.safetensors")
    steps = pa.concat_tables([pq.read_table(path) for path in sorted(draft.glob("steps-*.parquet"))])
    last = steps.slice(max(0, steps.num_rows - 10)).to_pylist()
    trained = sum(steps["tokens"].to_pylist())
    summary = TrainingSummary(
        steps=steps.num_rows,
        tokens_trained=trained,
        tokens_passed=sum(steps["tokens_passed"].to_pylist()),
        tokens_probed=sum(steps["tokens_probed"].to_pylist()),
        tokens_per_second=round(trained / sum(steps["seconds"].to_pylist()), 1),
        last_loss=sum(row["loss"] for row in last) / len(last),
        mean_kept=sum(steps["kept"].to_pylist()) / steps.num_rows,
        mean_effective_number=sum(steps["effective_number"].to_pylist()) / steps.num_rows,
        widened=sum(steps["widened"].to_pylist()),
        inertia=training.inertia.kind,
        measured_lag_steps=_lag(state),
        ranks=state.ranks,
        zero_stage=training.zero_stage,
        **dev.summary(),
    )
    write_bytes(scratch / "summary.json", summary.model_dump_json().encode())


def join(training: Training) -> None:
    """Make this process a rank of the process group that its environment names, if it is not yet."""
    torch.set_num_threads(training.threads_per_rank)
    if torch.cuda.is_available():
        torch.cuda.set_device(
            int(os.environ["LOCAL_RANK"])
        )  # otherwise all ranks of a host would load the student on its first GPU
    # Otherwise DeepSpeed compiles a shared-memory operator at first use, which takes half a minute and needs a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)


def train_as(document: dict[str, Any]) -> None:
    """Train as the stage's specification says, in a process group that was joined before."""
    draft, scratch = Path(document["draft"]), Path(document["scratch"])
    there = document["mirror"]
    mirror = None if there is None else Mirror(ObjectStore(there["url"]), Path(there["root"]), there["name"])
    read = document["synthesis"]
    store = Store(Path(read["root"]), None if mirror is None else mirror.remote)
    synthesis = store.open("synthesis", read["fingerprint"])
    config = Config.model_validate(document["config"])
    questions = None if config.training.dev is None else store.open("questions", document["questions"])
    train(config, synthesis, draft, scratch, Progress(Path(document["progress"]), "training"), mirror, questions)


def main() -> None:
    """Entry point of a rank; the launcher starts one process per rank."""
    document = json.loads(Path(sys.argv[1]).read_text())
    join(Training.model_validate(document["config"]["training"]))
    try:
        train_as(document)
    except (MindError, StorageError) as error:
        # The launcher does not forward messages, so the stage reads it from this file.
        write_bytes(Path(document["scratch"]) / REJECTION_FILE, str(error).encode())
        raise SystemExit(error.exit_code) from None
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
