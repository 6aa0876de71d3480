"""Makes a process kill itself at a commit point. Python runs this file at start because its folder is on PYTHONPATH.

`MIND_KILL` is "MODULE RANK NUMBER WHEN": in the process started as `python -m MODULE` (of that rank, or `-`), the NUMBER-th call that makes
something durable or visible under `MIND_KILL_ROOT` (fsync, rename, replace, link, unlink, mkdir) is the last: SIGKILL follows right before
or right after it. The product knows nothing of this.
"""

import os
import signal
import sys

POINTS = ("fsync", "rename", "replace", "link", "unlink", "mkdir")


def _is_under_root(target: object, root: str) -> bool:
    try:
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(os.fspath(target))  # type: ignore[call-overload]  # noqa: PTH100, PTH115
    except (OSError, TypeError):
        return False
    return str(path).startswith(root)


def _install(number: int, when: str, root: str) -> None:
    left = [number]

    def die() -> None:
        with open(os.path.join(os.environ["MIND_KILL_ROOT"], "killed"), "a") as log:  # noqa: PTH118, PTH123
            log.write(f"{os.environ['MIND_KILL']}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def watched(original):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            if not args or not _is_under_root(args[0], root):
                return original(*args, **kwargs)
            left[0] -= 1
            if left[0] == 0 and when == "before":
                die()
            try:
                return original(*args, **kwargs)
            finally:  # also after an error: the file to remove may be missing
                if left[0] == 0:
                    die()

        return call

    for name in POINTS:
        setattr(os, name, watched(getattr(os, name)))


def _wanted() -> None:
    module, rank, number, when = os.environ["MIND_KILL"].split()
    argv = sys.orig_argv
    mine = argv[argv.index("-m") + 1] if "-m" in argv else ""
    if mine == module and rank in ("-", os.environ.get("RANK", "-")):
        _install(int(number), when, os.environ["MIND_KILL_ROOT"])


if os.environ.get("MIND_KILL"):
    _wanted()
