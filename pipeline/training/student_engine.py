"""The part of DeepSpeed's engine that joint training uses, as a protocol. Plain PyTorch can take its place (`stages/speed`)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class StudentEngine(Protocol):
    """A student (`StudentLosses`) with its optimiser, on one rank."""

    module: Any
    """The module that the engine calls."""
    optimizer: Any
    """Only `param_groups` is used, to set the learning rate."""

    device: torch.device

    def __call__(self, *inputs: Any) -> Any:
        """Forward pass of the module."""
        ...

    def backward(self, loss: Tensor, scale_wrt_gas: bool) -> Any:
        """Backward pass; `scale_wrt_gas=False` leaves the loss undivided by the number of accumulation steps."""
        ...

    def step(self) -> None:
        """Take an optimiser step once all micro-batches of the step were processed; before that only count."""
        ...

    def get_global_grad_norm(self) -> Any:
        """Gradient norm before clipping over all ranks; None if it is not recorded."""
        ...
