"""`mind import-gguf`: writes a transformers folder from a GGUF file."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.formatting import DATA, reported

app = typer.Typer(add_completion=False)


class Precision(StrEnum):
    """Precision of the written weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@app.command(name="import-gguf", rich_help_panel=DATA)
def import_gguf(
    file: Annotated[Path, typer.Argument(help="a GGUF file of a Llama- or Qwen-shaped model")],
    out: Annotated[Path, typer.Argument(help="the new model folder")],
    dtype: Annotated[Precision, typer.Option(help="precision of the weights; best that in which the student is trained")] = (
        Precision.FLOAT32
    ),
) -> None:
    """Write a model folder from a GGUF file.

    It has safetensors, a fast tokenizer and the chat template, and is checked by a probe.
    """
    # Everything here runs on the CPU; otherwise DeepSpeed, which transformers imports, warns that it found nothing else.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    with reported():
        from pipeline.gguf_folder import write_folder

        found = write_folder(file, out, dtype.value)
        print(
            f"{out}: {found.model_type}, {found.parameters:,} parameters; {found.loss:.2f} nats per token of a sentence, where a guess has "
            f"{found.chance:.2f}"
        )
        if found.loss > found.chance:
            print(
                "warning: that is worse than a guess, as of a model that was never trained, or whose weights are read wrongly"
            )
