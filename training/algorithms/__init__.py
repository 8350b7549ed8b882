"""Which algorithms there are: the one list that settings, help and trainer read. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """What the rest of the program must know of an algorithm by its name."""

    title: str
    """As it is written: "QMIX-NS"."""
    summary: str
    """One line: what it does, and where it is from."""
    preset: str = "tuned"
    """Its settings where no preset is named."""
    on_policy: bool = False
    """False: the agent's outputs are Q values, learned from a replay. True: they are the logits of
    a policy, which learns from each battle once, right after playing it."""


ALGORITHMS = {
    "qmix": Algorithm(
        "QMIX",
        "mixes the agents' values by a monotonic network that the state makes (Rashid et al. 2018)",
    ),
    "vdn": Algorithm("VDN", "adds the agents' values up (Sunehag et al. 2018)"),
    "iql": Algorithm("IQL", "each agent learns by itself (Tan 1993; Tampuu et al. 2017)"),
    "qmix_ns": Algorithm(
        "QMIX-NS", "QMIX whose mixing network ignores the state (Rashid et al. 2018, ablation)"
    ),
    "qmix_lin": Algorithm(
        "QMIX-Lin",
        "QMIX without the hidden layer: a sum weighted by the state (Rashid et al. 2018, ablation)",
    ),
    "vdn_s": Algorithm(
        "VDN-S", "VDN and a term that depends on the state (Rashid et al. 2018, ablation)"
    ),
    "coma": Algorithm(
        "COMA",
        "policies taught by a central critic, each agent for what its own action changed "
        "(Foerster et al. 2018)",
        preset="coma",
        on_policy=True,
    ),
}


def describe() -> str:
    """A line on each, for `--help`."""
    return "\n".join(f"{name}: {one.summary}" for name, one in ALGORITHMS.items())
