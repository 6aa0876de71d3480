"""docs/method.md and the preset of the paper name the same fields, and these exist."""

from __future__ import annotations

import re
from functools import reduce

import yaml

from pipeline.config.presets import leaves, preset_tree
from pipeline.config.run import load_config
from tests.support.runs import REPOSITORY

METHOD = (REPOSITORY / "docs/method.md").read_text()
MARKED = {name: yaml.safe_load(value) for name, value in re.findall(r"● `([a-z_.]+): ([^`]+)`", METHOD)}
NAMED = set(re.findall(r"`((?:objective|synthesis|sampling|training)\.[a-z_.]+)[`:]", METHOD))


def test_the_document_marks_exactly_the_keys_of_the_preset() -> None:
    expected = {
        name: float(value) if isinstance(value, str) and value[0].isdigit() else value for name, value in MARKED.items()
    }
    assert expected == leaves(preset_tree("paper"))


def test_every_field_that_the_document_names_exists() -> None:
    run = load_config(REPOSITORY / "configs/own-data.yaml")
    assert len(NAMED) > 20
    for name in NAMED:
        reduce(getattr, name.split("."), run)


def test_the_document_says_what_the_defaults_are() -> None:
    of_defaults = "".join(line.split("|")[2] for line in METHOD.splitlines() if line.startswith("| ") and line.count("|") == 5)
    said = re.findall(r"`((?:objective|synthesis|sampling|training)\.[a-z_.]+): ([^`{]+)`", of_defaults)
    assert len(said) > 8
    for name, value in said:
        *parents, last = name.split(".")
        section = type(reduce(getattr, parents, load_config(REPOSITORY / "configs/own-data.yaml")))
        assert section.model_fields[last].default == yaml.safe_load(value) or section.model_fields[last].default == float(value)
