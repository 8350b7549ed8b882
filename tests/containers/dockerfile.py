"""A Dockerfile, read: stages and their instructions, without a Docker engine.

It knows what the repository's own file uses, and fails at anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "RUN",
    "STOPSIGNAL", "USER", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str
    """What follows the name, in one line."""

    @property
    def flags(self) -> dict[str, str]:
        """`--name=value` at the beginning, by name."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", self._flags()))

    @property
    def rest(self) -> str:
        return self.text[len(self._flags()) :].strip()

    def _flags(self) -> str:
        found = re.match(r"(--[a-z-]+=\S+\s+)*", self.text)
        return found[0] if found else ""

    def exec_form(self) -> list[str]:
        """Raises: ValueError: it is the shell's form."""
        words = json.loads(self.rest)
        if not isinstance(words, list):
            raise ValueError(f"{self.name} is not a list")
        return [str(word) for word in words]


@dataclass
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [found for found in self.instructions if found.name == name]


def parse(text: str) -> tuple[dict[str, str], list[Stage]]:
    """(the ARGs before the first stage, the stages in order). Raises: ValueError"""
    args: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            found = re.fullmatch(r"(\S+)\s+AS\s+(\S+)", instruction.text)
            if found is None:
                raise ValueError("every stage needs a name")
            stages.append(Stage(found[2], found[1]))
        elif instruction.name not in KNOWN:
            raise ValueError(f"{instruction.name} is not known here")
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            args.update([_pair(instruction.text)])
    return args, stages


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield Instruction(name, rest.strip())


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value.strip('"')


def pairs(text: str) -> dict[str, str]:
    """`A=1 B="two words"`, as ENV, ARG and LABEL have it; without a value it is empty."""
    found = re.findall(r'([\w.]+)(?:=("[^"]*"|\S*))?', text)
    return {name: value.strip('"') for name, value in found}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """With `$NAME` and `${NAME}` replaced."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], ""), text)


def ignored(path: str, patterns: str) -> bool:
    """Whether a .dockerignore keeps this path (relative, with `/`) out: the last pattern that fits
    it or a folder above it decides."""
    out = False
    for line in patterns.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            keeps = pattern.startswith("!")
            if _fits(path, pattern.lstrip("!")):
                out = not keeps
    return out


def _fits(path: str, pattern: str) -> bool:
    parts = path.split("/")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    if pattern.startswith("**/"):
        return any(fnmatchcase(part, pattern[3:]) for part in parts)
    # `*` does not match a slash.
    level = pattern.count("/")
    return any(one.count("/") == level and fnmatchcase(one, pattern) for one in above)


def context(folder: Path) -> list[str]:
    """The files that a build would see, less what git ignores by folder name."""
    patterns = (folder / ".dockerignore").read_text()
    roots = [path for path in sorted(folder.iterdir()) if path.name not in (".git", ".cache")]
    files = [file for root in roots for file in (root, *root.rglob("*")) if file.is_file()]
    names = [file.relative_to(folder).as_posix() for file in files]
    return [name for name in names if not ignored(name, patterns)]
