"""Generation engines, and the judge that reads what rules cannot."""

from __future__ import annotations

import os
from typing import Any, Final, Literal, NamedTuple, get_args

from pydantic import BaseModel, field_validator, model_validator

from pipeline.config.models import JudgeField, ServedModel
from pipeline.schema.fields import Addresses, Frozen, identity, runtime

KEY_VARIABLES: Final = "MIND_KEY_VARIABLES"
"""Environment variable with the names of further variables that may hold an API key; part of the machine, never of a run."""


Parameter = Literal[
    "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "reasoning_effort",
]  # fmt: skip
"""Parameters of a request."""


class Prices(Frozen):
    """What a server's tokens cost, per million."""

    currency: str = runtime(pattern=r"^[A-Z]{3}$")
    """Currency, for example USD."""
    input: float = runtime(ge=0)
    """A million tokens of prompts."""
    cached_input: float | None = runtime(None, ge=0)
    """A million tokens of prompts that the server had in its cache; the same as `input` if null."""
    output: float = runtime(ge=0)
    """A million tokens of completions."""


class EngineConfig(Frozen):
    """Text generation by vLLM in this process, by an OpenAI-compatible server, or by plain transformers.

    One model for the three kinds, so that `--set sampling.engine.kind=transformers` is enough to switch; each field names its engine.
    """

    kind: Literal["vllm", "openai", "transformers"] = identity("vllm")
    """Engine: vLLM in the stage's process, a server, or plain transformers."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = identity("auto")
    """Data type of the weights; `auto` takes the checkpoint's. Not used by a server."""
    max_context: int = identity(2048, ge=16)
    """Longest prompt with its completion, in tokens."""
    base_url: Addresses | None = runtime(None)
    """Server only: its address, for example http://127.0.0.1:8000/v1, or a list of addresses of servers with the same model; each request
    goes to whoever is free."""
    served_model: str | None = identity(None)
    """Server only: the model to ask for, as the server calls it."""
    answers_as: str | None = identity(None)
    """Server only: the model name that its answers carry where it differs from `served_model` (gpt-4o-2024-08-06 for gpt-4o)."""
    finish_reasons: tuple[str, ...] | None = identity(None, min_length=1)
    """Server only: finish reasons by which it says that a text ended by itself, besides the usual ones (stop, eos, end_turn, ...)."""
    parameters: dict[Parameter, str | None] | None = identity(None)
    """Server only: what it calls a parameter of a request, or null to leave it out, for example `{temperature: null}`."""
    key_variable: str = runtime("OPENAI_API_KEY")
    """Server only: environment variable that holds the API key; ends in _API_KEY, or is listed in the variable MIND_KEY_VARIABLES."""
    connections: int = runtime(32, ge=1)
    """Server only: requests in flight at each address."""
    request_seconds: float = runtime(600, gt=0)
    """Server only: seconds within which a request has to be answered completely, however slowly the answer arrives."""
    retry_seconds: float = runtime(1800, ge=0)
    """Server only: time budget for retries of one request, in seconds."""
    prices: Prices | None = runtime(None)
    """Server only: prices per million tokens, so that progress, plan and report state what was spent."""
    spending_limit: float | None = runtime(None, gt=0)
    """Server only: end the stage, to be resumed, before this engine costs it more than this, in the currency of `prices`."""
    batches: bool = runtime(False)
    """Server only: send requests through the server's batch interface; a batch holds a shard's requests, so raise the shard's size."""
    batch_hours: float | None = runtime(None, ge=0)
    """Batches only: hours after which a stage stops waiting and ends, to be run again; 0 submits and leaves, null waits until the end."""
    stall_seconds: float = runtime(900, gt=0)
    """vLLM only: end the stage after this many seconds without a step."""
    tensor_parallel: int = runtime(1, ge=1)
    """vLLM only: number of GPUs that share the model."""
    replicas: int = runtime(1, ge=1)
    """vLLM only: copies of the model that answer side by side, each on `tensor_parallel` GPUs; on a CPU no more than it has cores."""
    gpu_memory_utilization: float = runtime(0.9, gt=0, le=1)
    """vLLM on a GPU: share of the GPU's memory."""
    kv_cache_gib: float = runtime(1.0, gt=0)
    """vLLM on a CPU: memory of the KV cache, in GiB."""
    max_sequences: int = runtime(256, ge=1)
    """vLLM only: sequences in one step."""
    batch: int = runtime(64, ge=1)
    """transformers only: prompts in one batch."""

    @property
    def in_process(self) -> bool:
        """Whether the model runs here, so that its folder and tokenizer are at hand; a server has both elsewhere."""
        return self.kind != "openai"

    @property
    def cards(self) -> int:
        """GPUs that vLLM takes."""
        return self.tensor_parallel * self.replicas

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers' addresses, in the order of the configuration."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()

    @property
    def where(self) -> str:
        """The servers' addresses in words."""
        return ", ".join(self.addresses)

    @field_validator("key_variable")
    @classmethod
    def _holds_a_key(cls, name: str) -> str:
        if not name.endswith("_API_KEY") and name not in os.environ.get(KEY_VARIABLES, "").replace(",", " ").split():
            raise ValueError(
                f"its value is sent to a server, so use a name that ends in _API_KEY, or list it in {KEY_VARIABLES}"
            )
        return name

    @model_validator(mode="after")
    def _server_address(self) -> EngineConfig:
        if self.kind == "openai" and (self.base_url is None or self.served_model is None):
            raise ValueError("the openai engine needs base_url, for example http://127.0.0.1:8000/v1, and served_model")
        if self.batches and self.in_process:
            raise ValueError("batches: only a server has them; set kind to openai, or batches to false")
        if self.batches and len(self.addresses) > 1:
            raise ValueError("batches: a batch is at one server; give one base_url, or set batches to false")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> EngineConfig:
        sent = [(self.parameters or {}).get(name, name) for name in get_args(Parameter)]
        twice = next((name for name in sent if name is not None and sent.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"parameters: two are called {twice!r}, so that one would replace the other; give each its own name"
            )
        return self

    @model_validator(mode="after")
    def _limit_can_be_kept(self) -> EngineConfig:
        if self.spending_limit is None:
            return self
        if self.prices is None:
            raise ValueError(
                "spending_limit: without prices nothing can be counted; give prices, for example {currency: USD, input: 1, output: 4}"
            )
        if self.parameters is not None and self.parameters.get("max_tokens", "") is None:
            raise ValueError(
                "spending_limit: a request without max_tokens can cost any amount; leave max_tokens in, or spending_limit out"
            )
        return self


class Judge(Frozen):
    """A language model that decides about answers which the grading rules cannot read; see `pipeline/llm_judge.py`."""

    model: JudgeField = identity()
    """The judge."""
    engine: EngineConfig = identity(EngineConfig())
    """Engine that runs the judge."""
    max_tokens: int = identity(512, ge=1)
    """Longest verdict, in tokens."""
    prompt: str = identity(
        "Here are a question, its right answer, and somebody's solution.\n\nQuestion:\n{{ question }}\n\nRight answer:\n{{ answer }}\n\n"
        "Solution:\n{{ text }}\n\nDoes the solution come to the right answer? Judge the final answer alone, not the way to it. "
        "A solution that states no final answer, or several, is wrong. End with a line that has one word: CORRECT or WRONG."
    )
    """Jinja template with `question`, `answer` and `text`."""

    @model_validator(mode="after")
    def _has_a_server(self) -> Judge:
        if isinstance(self.model, ServedModel) and self.engine.in_process:
            raise ValueError("model.served: no server answers; set engine to kind openai with its base_url")
        return self


class Server(NamedTuple):
    """Where an engine sends its requests, and the environment variable whose value it sends."""

    base_url: str | tuple[str, ...] | None
    key_variable: str


def servers_of(model: Any, place: str = "") -> dict[str, Server]:
    """The server of every engine inside a configuration, by the engine's place in it, for example `sampling.judge.engine`."""
    if isinstance(model, EngineConfig):
        return {place: Server(model.base_url, model.key_variable)}
    if not isinstance(model, BaseModel):
        return {}
    fields = ((f"{place}.{name}".lstrip("."), getattr(model, name)) for name in type(model).model_fields)
    return {inner: server for name, value in fields for inner, server in servers_of(value, name).items()}
