"""`python -m training.zoo`: the trained agents in `models/`, in one table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

SOLVED = 0.95
HEAD = """# Model zoo

Trained agents, one folder a map and version: `model.onnx` (the network of one agent, nothing of
the mixer), its manifest and a model card with the learning curve and the training command.
`python -m serving.server` serves them all as they stand.

"""
TAIL = f"""
Win rates are greedy, over battles that training never saw, with their 95 % interval. An agent below
{SOLVED:.0%} is the best that its training found and has not solved its map. Play them again, on
still other battles, with

```sh
python -m training.evaluate --map 3s5z --policy models/3s5z/1 --episodes 1000 --seed 777
```

`python -m training.experiment experiments/zoo.yaml` (and `zoo_3s_vs_5z.yaml`) trains them,
`python -m training.export` puts
one here, and `python -m training.zoo` writes this page from the manifests.
"""


@dataclass(frozen=True)
class Command:
    """Write models/README.md from the manifests of the models beside it."""

    models: Path = Path("models")
    """The model repository."""
    check: bool = False
    """Write nothing; fail if the page is not what the manifests say."""


class ZooError(RuntimeError):
    """A manifest cannot be read, or the page is out of date."""


def newest(models: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and manifest of each model's newest version, by name.

    Raises:
        ZooError: a manifest cannot be read.
    """
    for folder in sorted(path for path in models.iterdir() if path.is_dir()):
        versions = [path for path in folder.iterdir() if path.name.isdecimal()]
        if versions:
            latest = max(versions, key=lambda path: int(path.name))
            try:
                yield latest, json.loads((latest / "manifest.json").read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ZooError(f"{latest}/manifest.json: {error}") from None


def page(models: Path) -> str:
    """models/README.md, whole."""
    lines = [
        "| map | agent | greedy win rate | solved | measured on | trained on | seed | curve |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(folder.relative_to(models), manifest) for folder, manifest in newest(models)]
    return HEAD + "\n".join(lines) + "\n" + TAIL


def _row(folder: Path, manifest: dict[str, Any]) -> str:
    training = manifest["training"]
    low, high = training["win_rate_ci95"]
    cells = (
        f"`{manifest['map']}`",
        f"[{folder}]({folder}/MODEL_CARD.md), {manifest['algorithm'].upper()}",
        f"{training['win_rate']:.1%} ({low:.1%} to {high:.1%})",
        "yes" if training["win_rate"] >= SOLVED else "no",
        f"{training['win_rate_episodes']:,} battles of seed {training['win_rate_seed']}",
        f"{training['env_steps']:,} steps, preset {training['preset']}",
        str(training["seed"]),
        f"[curve]({folder}/curve.png)" if "curve.png" in manifest["files"] else "",
    )
    return f"| {' | '.join(cells)} |"


def main(command: Command) -> Path:
    """Raises: ZooError"""
    if not command.models.is_dir():
        raise ZooError(f"{command.models}: no such folder")
    path, text = command.models / "README.md", page(command.models)
    if command.check:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise ZooError(f"{path} is not what the manifests say; run python -m training.zoo")
        return path
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    return path


if __name__ == "__main__":
    try:
        print(main(tyro.cli(Command)))
    except ZooError as error:
        sys.exit(f"error: {error}")
