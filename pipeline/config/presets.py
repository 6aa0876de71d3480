"""Presets: named parts of a run's configuration, as files `preset-NAME.yaml` beside this one.

A key that the run gives itself replaces the preset's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.schema.yaml_and_overrides import read


def with_preset(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with the keys of the preset that it names, unless it gives them itself; an unknown name is left to validation."""
    name = str(tree.get("preset"))
    known = re.fullmatch("[a-z]{1,32}", name) is not None and _file(name).is_file()
    return _under(preset_tree(name), tree) if known else tree


def preset_tree(name: str) -> dict[str, Any]:
    """The keys of a preset, as a tree of sections."""
    return read(_file(name), "reinstall MIND")


def _file(name: str) -> Path:
    return Path(__file__).with_name(f"preset-{name}.yaml")


def _under(preset: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    merged = {**preset, **tree}
    for name, section in preset.items():
        if isinstance(section, dict) and isinstance(own := tree.get(name), dict):
            merged[name] = _under(section, own)
    return merged


def leaves(tree: dict[str, Any], parents: str = "") -> dict[str, Any]:
    """The tree's fields by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= leaves(value, f"{parents}{name}.") if isinstance(value, dict) else {f"{parents}{name}": value}
    return found
