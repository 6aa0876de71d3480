"""A tokenizer small enough to build anew in every session, and a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXTS = [
    "A dial with ten marks reads [7]. Turn it +5, -3. What does it read?",
    "Question: Solution: 1) 7+5=2. 2) 2-3=9. The answer is \\boxed{9}.",
    "Let x=7. Were +5 left out: 7-3=4. But it counts: 4+5=9. The answer is \\boxed{yes}.",
]


def build_tokenizer(folder: Path, **settings: Any) -> Any:
    """A byte-level BPE tokenizer of about 300 tokens, saved as a transformers folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<end>", "<begin>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", **settings)
    tokenizer.save_pretrained(folder)
    return tokenizer


CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[ai]{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}[no thoughts]{% endif %}"
    "{% if shout is defined %}{{ raise_exception('not here') }}{% endif %}"
)
