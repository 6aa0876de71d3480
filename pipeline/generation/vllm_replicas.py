"""Generation engine on several copies of a model side by side: vLLM's own server for each, as a child of this process.

vLLM in one process (`vllm_engine.py`) is one copy. With `engine.replicas`, a server is started for each copy, on its own GPUs, and requests
go to whoever is free (`several_servers.py`). The servers listen on loopback, have a key that is drawn for each start and that only their
environment knows, and run under `pipeline/process_guard.py`, so that they end with this process however that ends. Their output goes to
this process's log.

Our choice: servers rather than vLLM's data parallelism within one. Copies of a model without experts share nothing, so that it would add a
coordinator between them, which has to be up within a fixed two minutes, and one process through which every text passes.

Rows are the same as with one copy. A server is sent the token ids that the engine in this process takes, and every setting of a request,
because it takes those left out from the model's folder.

A thread watches: if a server ends, or one with open requests makes no token for `engine.stall_seconds`, everything ends.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import torch

from pipeline.capacity.machine import require_room
from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel, Weights
from pipeline.errors import EngineError
from pipeline.generation.engine import Completion, Decoding, Engine, Told, untold
from pipeline.generation.servers.connection import OwnServer
from pipeline.generation.servers.several_servers import SeveralServers, open_several
from pipeline.generation.vllm_engine import llm_settings
from pipeline.model_folders import load_tokenizer
from pipeline.model_thoughts import special_marks, without_other_tokens
from pipeline.process_guard import guarded
from pipeline.prompt_rendering import Prompt, prompt_tokens

_HOME: Final = Path(__file__).parents[2]
_SERVER: Final = "vllm.entrypoints.launchers.api_server.entry"
"""The module behind `vllm serve`; the command itself needs a package called vllm, and the CPU's has another name."""
_LOOK_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 30.0
_FOREVER: Final = 1e8
"""Seconds for one answer: the servers are watched instead."""
_NOTHING_SET: Final = {
    "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""What a request without these settings means; left out, a server would take them from the model's folder."""
_COUNTED: Final = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|prompt_tokens_total|generation_tokens_total)\{.*\} (\S+)$", re.MULTILINE
)
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Copy:
    """One copy's server: its process, and the tokens that it has made, as far as it says."""

    def __init__(self, number: int, config: EngineConfig, model: Weights, name: str, key: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self._root = f"http://127.0.0.1:{port}"
        self.url = f"{self._root}/v1"
        self.title = f"vLLM's server {number + 1} of {config.replicas} on {model.location}"
        self._tokens, self._moved = -1.0, time.monotonic()
        where = ["--host", "127.0.0.1", "--port", port, "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
        what = ["--model", model.location, "--served-model-name", name]
        revision = ["--revision", model.revision] if model.revision is not None else []
        self._process = subprocess.Popen(
            guarded("-m", _SERVER, *where, *what, *revision, *_flags(llm_settings(config))),
            stdin=subprocess.DEVNULL,
            env=_environment(number, config, model, key),
        )

    def ended(self) -> int | None:
        """The exit code, if it has ended."""
        return self._process.poll()

    def answers(self) -> bool:
        """Whether the model is loaded."""
        return self._get("/health") is not None

    def stalled(self, seconds: float) -> bool:
        """Whether it has had open requests for so long without a token; asked again and again."""
        found: dict[str, float] = {}
        for name, value in _COUNTED.findall(self._get("/metrics") or ""):
            found[name] = found.get(name, 0.0) + float(value)
        tokens = found.get("prompt_tokens_total", 0.0) + found.get("generation_tokens_total", 0.0)
        # Without figures it does not even answer, which counts as no token.
        idle = not found.get("num_requests_running") and not found.get("num_requests_waiting")
        if found and (tokens != self._tokens or idle):
            self._tokens, self._moved = tokens, time.monotonic()
        return time.monotonic() - self._moved > seconds

    def end(self) -> None:
        """Tells it to end with all of its processes."""
        self._process.terminate()

    def wait(self) -> None:
        """Waits for its end."""
        self._process.wait()

    def _get(self, path: str) -> str | None:
        try:
            with _DIRECT.open(f"{self._root}{path}", timeout=5) as reply:
                return str(reply.read().decode())
        except (urllib.error.URLError, OSError):
            return None


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the server's command line spells them. Its statistics stay on: they show whether it moves."""
    found: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if name != "disable_log_stats":
            found += ([f"--{flag}"] if value else [f"--no-{flag}"]) if isinstance(value, bool) else [f"--{flag}", str(value)]
    return found


def _environment(number: int, config: EngineConfig, model: Weights, key: str) -> dict[str, str]:
    """The environment of one copy's server: its key, its GPUs or its share of the cores; what the user sets wins."""
    usual = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(config.stall_seconds)),
    }
    if isinstance(model, LocalModel):
        usual["HF_HUB_OFFLINE"] = "1"
    own = {"VLLM_API_KEY": key, "PYTHONPATH": os.pathsep.join(filter(None, [str(_HOME), os.environ.get("PYTHONPATH")]))}
    if torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = given.split(",") if given else [str(card) for card in range(torch.cuda.device_count())]
        first = number * config.tensor_parallel
        own["CUDA_VISIBLE_DEVICES"] = ",".join(cards[first : first + config.tensor_parallel])
    else:
        # Each would bind itself to all cores.
        usual["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        usual["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // config.replicas))
    return {**usual, **os.environ, **own}


def _end(copies: Sequence[_Copy]) -> None:
    for copy in copies:
        copy.end()
    for copy in copies:
        copy.wait()


def _wait_until_ready(copies: Sequence[_Copy], seconds: float) -> None:
    until = time.monotonic() + seconds
    loading = list(copies)
    while loading := [copy for copy in loading if not copy.answers()]:
        _require_life(copies, "; correct the model or its engine's settings, then run again")
        if time.monotonic() > until:
            raise EngineError(
                f"{loading[0].title} did not answer within engine.stall_seconds {seconds:g}; see the stage's log; raise it if "
                "loading takes longer"
            )
        time.sleep(_LOOK_SECONDS / 4)


def _require_life(copies: Sequence[_Copy], remedy: str) -> None:
    for copy in copies:
        if (code := copy.ended()) is not None:
            raise EngineError(f"{copy.title} ended (exit code {code}); see the stage's log{remedy}")


def _watch(copies: Sequence[_Copy], engine: SeveralServers, stall_seconds: float, done: Event) -> None:
    """Ends the engine when a copy ends or hangs."""
    while not done.wait(_LOOK_SECONDS):
        try:
            _require_life(copies, "; committed shards are kept: run again")
            for copy in copies:
                if copy.stalled(stall_seconds):
                    raise EngineError(
                        f"{copy.title} made no token for {stall_seconds:,.0f} s with open requests; committed shards are kept: check the "
                        "device, then run again; if steps take longer than this, raise engine.stall_seconds"
                    )
        except EngineError as error:
            engine.end(error)
            _end(copies)  # so that nothing waits for the answers of the others
            return


class _Replicas:
    """The engine on the copies; its texts have the special tokens that mark thoughts, and no others."""

    def __init__(self, engine: Engine, tokenizer: Any, marks: frozenset[str]) -> None:
        self._engine = engine
        self._clean = partial(without_other_tokens, tokenizer, kept=marks) if marks else None

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        found = self._engine.generate(prompts, seeds, replace(decoding, reasoning_effort=None))
        return found if self._clean is None else [replace(said, text=self._clean(said.text)) for said in found]


@contextmanager
def open_replicas(config: EngineConfig, model: Weights, arrived: Path | None, told: Told = untold) -> Iterator[_Replicas]:
    """Starts the servers on `model`, in a thread that lives as long as they. `arrived` is the journal of answers in no committed shard yet.

    Raises:
        ConfigError: this machine has too few GPUs or cores.
        EngineError: vLLM could not start.
    """
    require_room(config)
    tokenizer = load_tokenizer(model)
    marks = special_marks(tokenizer, model.thought_marks)
    name, key = f"replica-{secrets.token_hex(4)}", secrets.token_hex(24)

    def tokens(prompt: Prompt) -> list[int]:
        return prompt_tokens(tokenizer, prompt, model.dialogue)

    with ExitStack() as stack:
        copies: list[_Copy] = []
        stack.callback(_end, copies)
        for number in range(config.replicas):
            copies.append(_Copy(number, config, model, name, key))
        _wait_until_ready(copies, config.stall_seconds)
        own = OwnServer(key, tokens, {**_NOTHING_SET, "skip_special_tokens": not marks})
        asked = EngineConfig(
            kind="openai",
            base_url=tuple(copy.url for copy in copies),
            served_model=name,
            connections=config.max_sequences,
            request_seconds=_FOREVER,
            retry_seconds=_RETRY_SECONDS,
        )
        engine = stack.enter_context(open_several(asked, None, arrived, told, own))
        done = Event()
        watching = Thread(target=_watch, args=(copies, engine, config.stall_seconds, done), name="replicas", daemon=True)
        watching.start()
        stack.callback(watching.join)
        stack.callback(done.set)
        yield _Replicas(engine, tokenizer, marks)
