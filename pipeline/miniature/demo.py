"""The demo's configuration for a user without the repository: the package contains it, with the models that it names.

`demo.yaml` is `configs/miniature.yaml` but for its first line and its paths, which are relative to this folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent


def demo_config() -> str:
    """The configuration with the models' absolute paths, so that it may be written anywhere; its root is `artifacts` beside it."""
    text = (FOLDER / "demo.yaml").read_text()
    for role in ("teacher", "student"):
        text = text.replace(f"path: models/{role}", f"path: {json.dumps(str(FOLDER / 'models' / role), ensure_ascii=False)}")
    return text
