"""YAML of plain values alone, which costs no more than its text: maps, lists, texts, numbers, truth values and null."""

from typing import Any, ClassVar

import yaml

_DEEPEST = 20
_LONGEST_NUMBER = 100  # letters
_NEVER_IMPLICIT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


class PlainLoader(yaml.SafeLoader):
    """Refuses aliases, with which a short text can mean a very long one, tags, and deep nesting; a date is a text.

    Raises:
      yaml.YAMLError: for each of them.
      ValueError: what looks like a number and is none.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NEVER_IMPLICIT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the inherited one, within bounds."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._refuse("an alias; write its value out", event)
        if getattr(event, "tag", None) not in (None, "!"):
            self._refuse("a tag; write a plain value", event)
        if self._depth == _DEEPEST:
            self._refuse(f"more than {_DEEPEST} levels of nesting", event)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > _LONGEST_NUMBER:
            self._refuse_long(event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse_long(self, event: Any) -> None:
        """A text may be long, a number not: Python takes ever longer to read it, and refuses to write it out."""
        if self.resolve(yaml.ScalarNode, event.value, event.implicit) != self.DEFAULT_SCALAR_TAG:
            self._refuse(f"a number of {len(event.value)} letters", event)

    def _refuse(self, what: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)
