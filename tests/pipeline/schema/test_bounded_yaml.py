"""A YAML text is parsed within limits: a hostile one is refused in a line, in seconds, and in little memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.run import load_config
from pipeline.errors import ConfigError
from pipeline.schema.bounded_yaml import parse
from tests.support.runs import write_config

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def _bomb(levels: int) -> str:
    lines = ["x0: &l0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"x{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]")
    return "\n".join(lines)


HOSTILE = {
    "aliases of aliases": (_bomb(9), "keys and values, with every alias written out"),
    "merged aliases": (
        "a: &a {" + ", ".join(f"k{i}: 1" for i in range(200)) + "}\n" + "\n".join(f"b{i}: {{<<: *a}}" for i in range(200)),
        "keys and values, with every alias written out",
    ),
    "an alias of itself": ("a: &a [*a]", "an alias contains itself"),
    "60,000 keys": ("\n".join(f"k{number}: 1" for number in range(60_000)), "more than 20,000 keys and values"),
    "60,000 keys of one name": ("\n".join("k: 1" for _ in range(60_000)), "more than 20,000 keys and values"),
    "nested 50,000 deep": ("a: " + "[" * 50_000 + "]" * 50_000, "nested more than 64 deep"),
    "sections nested deep": ("\n".join(" " * depth + "a:" for depth in range(1000)), "nested more than 64 deep"),
    "an integer of 5,000 digits": ("seed: " + "9" * 5000, "4300 digits"),
    "an integer of 400 digits": ("seed: " + "9" * 400, "an integer of more than 64 bits"),
    "a date of month 13": ("seed: 2024-13-01", "month must be in 1..12"),
    "megabytes": ("a: " + "x" * 3_000_000, "larger than 1 MiB"),
    "a key that is a list": ("? [a, b]\n: 1", "unhashable key"),
    "a tag": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_a_line_and_in_seconds(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert time.process_time() - began < 40, "traced, so several times slower"
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100 * 2**20
    message = str(raised.value)
    assert message.startswith(f"{path}:")
    assert said in message
    assert message.count("\n") == 0
    assert len(message) < 600


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000, _bomb(9).replace("\n", "\n "), "2024-13-01"])
def test_a_hostile_override_is_refused_in_a_line(tmp_path: Path, run_tree: dict[str, Any], value: str) -> None:
    with pytest.raises(ConfigError, match="the value is not valid YAML") as raised:
        load_config(write_config(tmp_path, run_tree), (f"seed={value}",))
    assert len(str(raised.value)) < 600


def test_an_error_quotes_little_of_a_large_value(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    large: dict[str, Any] = {"only_perspectives": [[["x" * 10_000] * 50] * 50], "seed": 0}
    with pytest.raises(ConfigError) as raised:
        load_config(write_config(tmp_path, run_tree | large))
    assert len(str(raised.value)) < 600


@given(TREES)
def test_what_is_within_the_limits_is_read_as_plain_yaml(tree: Any) -> None:
    text = yaml.safe_dump(tree)
    assert parse(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("place", "value"),
    [("root", "a\0b"), ("root", "x" * 300), ("root", "s3://bucket/" + "x" * 300), ("perspectives", "é" * 200)],
)
def test_a_path_that_no_file_system_takes_is_refused(tmp_path: Path, run_tree: dict[str, Any], place: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{place}: .*, which no (path may have|file system takes)"):
        load_config(write_config(tmp_path, run_tree | {place: value}))


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_a_file_whose_name_is_too_long_is_missing(tmp_path: Path, name: str, run_tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .File name too long.; give the path"):
        load_config(tmp_path / name)
    with pytest.raises(ConfigError, match=r"correct questions\.panel|input should be 'paper'"):
        load_config(write_config(tmp_path, run_tree), (f"questions.panel={name}", f"preset={name}"))
