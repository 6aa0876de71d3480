"""The only door for YAML: parses a text within limits, so that a hostile one is refused quickly and in little memory.

A YAML file of a kilobyte can stand for a tree of billions of nodes, by aliases of aliases; such a tree is small in memory, but whatever
walks over it (validation, an error's words, a fingerprint) does not end. The nodes are therefore counted as if every alias were written
out, before anything is made from them.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

LARGEST_BYTES: Final = 2**20
"""Largest text; the largest shipped file has 9 kB."""
MOST_NODES: Final = 20_000
"""Most keys and values, every alias written out. PyYAML reads about 10,000 in a second."""
DEEPEST: Final = 64
"""Most sections inside each other."""


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, because plain YAML would silently use the last one, and stops reading at the limits."""

    _nodes = _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes, self._depth = self._nodes + 1, self._depth + 1
        if self._nodes > MOST_NODES:
            raise _beyond(f"it has more than {MOST_NODES:,} keys and values", self.line)
        if self._depth > DEEPEST:
            raise _beyond(f"it is nested more than {DEEPEST} deep", self.line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value[:80]!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    """An integer of up to 64 bits: larger ones break arithmetic, array sizes and JSON far from here."""
    value: int = loader.construct_yaml_int(node)
    if not -(2**63) <= value < 2**63:
        raise yaml.constructor.ConstructorError(None, None, "an integer of more than 64 bits", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse(text: str) -> Any:
    """What a YAML text says: mappings, lists and plain values.

    Raises:
        yaml.YAMLError: not valid YAML, a duplicate key, or beyond one of the limits.
    """
    if len(text.encode(errors="replace")) > LARGEST_BYTES:
        raise yaml.MarkedYAMLError(problem=f"it is larger than {LARGEST_BYTES >> 20} MiB")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measured(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, OverflowError) as error:  # a date of month 13, an integer of thousands of digits
        raise yaml.MarkedYAMLError(problem=str(error).partition(";")[0][:200]) from None
    finally:
        loader.dispose()


def _beyond(problem: str, line: int) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=yaml.Mark("", 0, line, 0, "", 0))


def _measured(node: yaml.Node, known: dict[int, int | None]) -> int:
    """The number of nodes below, every alias written out; `known` has those of finished nodes, and None for those that are open."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in known:
        if (found := known[id(node)]) is None:
            raise _beyond("an alias contains itself", node.start_mark.line)
        return found
    known[id(node)] = None
    total = 1
    for child in node.value:
        total += sum(_measured(part, known) for part in (child if isinstance(child, tuple) else (child,)))
        if total > MOST_NODES:
            raise _beyond(
                f"it has more than {MOST_NODES:,} keys and values, with every alias written out", node.start_mark.line
            )
    known[id(node)] = total
    return total
