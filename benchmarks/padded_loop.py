"""The learner's update as it is usually written: episodes padded to the longest, one GRUCell call
per time step, one-hots concatenated to the observation. Written from the published equations
(Rashid et al. 2018, 2020; Samvelyan et al. 2019); it measures and checks the learner that trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.algorithms.q_learner import QLearner
from training.config import LearningConfig
from training.networks.agent import DRQN
from training.networks.mixers import QMixer, VDNMixer
from training.types import EpisodeBatch

UNAVAILABLE = -9_999_999.0


@dataclass(frozen=True)
class PaddedBatch:
    """B episodes as [B, T + 1, ...]; T the longest one's steps. Padding is zeros.

    The last slot of actions, reward, terminated and filled is not used.
    """

    obs: Tensor
    state: Tensor
    avail_actions: Tensor
    actions: Tensor
    reward: Tensor
    terminated: Tensor
    filled: Tensor


def pad(batch: EpisodeBatch) -> PaddedBatch:
    """The same episodes, padded."""
    n_slots = len(batch.widths)
    time = torch.repeat_interleave(torch.arange(n_slots), torch.tensor(batch.widths))
    episode = torch.cat([torch.arange(width) for width in batch.widths])
    step_time, step_episode = time[batch.step_rows], episode[batch.step_rows]

    def padded(rows: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        out = rows.new_zeros((batch.n_episodes, n_slots, *rows.shape[1:]))
        out[at] = rows
        return out

    each, step = (episode, time), (step_episode, step_time)
    return PaddedBatch(
        obs=padded(batch.obs, each),
        state=padded(batch.state, each),
        avail_actions=padded(batch.avail_actions, each),
        actions=padded(batch.actions, step),
        reward=padded(batch.reward, step),
        terminated=padded(batch.terminal.float(), step),
        filled=padded(torch.ones_like(batch.reward), step),
    )


class LoopAgent(nn.Module):
    def __init__(self, agent: DRQN) -> None:
        super().__init__()
        self.hidden_dim = agent.hidden_dim
        self.n_agents, self.n_actions = agent.n_agents, agent.n_actions
        self.fc1 = nn.Linear(agent.fc1.in_features, agent.hidden_dim)
        self.rnn = nn.GRUCell(agent.hidden_dim, agent.hidden_dim)
        self.fc2 = nn.Linear(agent.hidden_dim, agent.n_actions)
        self.load_state_dict(agent.state_dict())

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.rnn(F.relu(self.fc1(inputs)), hidden)
        return self.fc2(hidden), hidden

    def unroll(self, batch: PaddedBatch) -> Tensor:
        """[B, T + 1, A, U]."""
        n_episodes, n_slots = batch.obs.shape[:2]
        hidden = batch.obs.new_zeros(n_episodes * self.n_agents, self.hidden_dim)
        one_hots = F.one_hot(batch.actions, self.n_actions).float()
        agent_ids = torch.eye(self.n_agents).expand(n_episodes, -1, -1)
        outputs = []
        for t in range(n_slots):
            last_action = one_hots[:, t - 1] if t else torch.zeros_like(one_hots[:, 0])
            inputs = torch.cat([batch.obs[:, t], last_action, agent_ids], dim=2)
            q_values, hidden = self(inputs.view(n_episodes * self.n_agents, -1), hidden)
            outputs.append(q_values.view(n_episodes, self.n_agents, self.n_actions))
        return torch.stack(outputs, dim=1)


class LoopQMixer(nn.Module):
    """QMIX with each hypernetwork by itself, and the mixing as matrix products."""

    def __init__(self, mixer: QMixer) -> None:
        super().__init__()
        self.n_agents, self.embed_dim = mixer.n_agents, mixer.embed_dim
        firsts = [
            _linear(weight, bias)
            for weight, bias in zip(
                mixer.first.weight.split_with_sizes(mixer.first_sizes),
                mixer.first.bias.split_with_sizes(mixer.first_sizes),
                strict=True,
            )
        ]
        self.hyper_w_1: nn.Module = firsts[0]
        self.hyper_w_2: nn.Module = firsts[1]
        self.hyper_b_1 = firsts[2]
        if isinstance(mixer.w1, nn.Sequential) and isinstance(mixer.w2, nn.Sequential):
            self.hyper_w_1 = nn.Sequential(firsts[0], nn.ReLU(), _copied(mixer.w1[1]))
            self.hyper_w_2 = nn.Sequential(firsts[1], nn.ReLU(), _copied(mixer.w2[1]))
        self.v = nn.Sequential(firsts[3], nn.ReLU(), _copied(mixer.v))

    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        n_episodes = q_values.shape[0]
        state = state.reshape(-1, state.shape[-1])
        agent_qs = q_values.view(-1, 1, self.n_agents)
        w_1 = torch.abs(self.hyper_w_1(state)).view(-1, self.n_agents, self.embed_dim)
        b_1 = self.hyper_b_1(state).view(-1, 1, self.embed_dim)
        hidden = F.elu(torch.bmm(agent_qs, w_1) + b_1)
        w_2 = torch.abs(self.hyper_w_2(state)).view(-1, self.embed_dim, 1)
        q_tot: Tensor = torch.bmm(hidden, w_2) + self.v(state).view(-1, 1, 1)
        return q_tot.view(n_episodes, -1, 1)


class LoopVDNMixer(nn.Module):
    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        return torch.sum(q_values, dim=2, keepdim=True)


class LoopIndependentMixer(nn.Module):
    def forward(self, q_values: Tensor, state: Tensor) -> Tensor:
        return q_values


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return layer


def _copied(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return _linear(layer.weight, layer.bias)


def _loop_mixer(mixer: nn.Module) -> nn.Module:
    if isinstance(mixer, QMixer):
        return LoopQMixer(mixer)
    return LoopVDNMixer() if isinstance(mixer, VDNMixer) else LoopIndependentMixer()


class LoopLearner:
    """The update on padded batches, starting from another learner's weights."""

    def __init__(self, learner: QLearner) -> None:
        self.config: LearningConfig = learner.config
        self.agent, self.mixer = LoopAgent(learner.agent), _loop_mixer(learner.mixer)
        self.target_agent = LoopAgent(learner.target_agent)
        self.target_mixer = _loop_mixer(learner.target_mixer)
        self.parameters = [*self.agent.parameters(), *self.mixer.parameters()]
        self.optimiser = torch.optim.RMSprop(
            self.parameters,
            lr=self.config.lr,
            alpha=self.config.optim_alpha,
            eps=self.config.optim_eps,
        )

    def gradients(self) -> dict[str, Tensor]:
        """Named and joined as the other learner's: "agent.fc1.weight", "mixer.first.weight"..."""
        grads = {f"agent.{name}": _grad(p) for name, p in self.agent.named_parameters()}
        if not isinstance(self.mixer, LoopQMixer):
            return grads
        mixer = {name: _grad(p) for name, p in self.mixer.named_parameters()}
        nets = ("hyper_w_1", "hyper_w_2", "hyper_b_1", "v")
        for kind in ("weight", "bias"):
            parts = [mixer.get(f"{net}.0.{kind}", mixer.get(f"{net}.{kind}")) for net in nets]
            grads[f"mixer.first.{kind}"] = torch.cat([part for part in parts if part is not None])
            grads[f"mixer.v.{kind}"] = mixer[f"v.2.{kind}"]
            if self.config.hypernet_layers == 2:
                grads[f"mixer.w1.1.{kind}"] = mixer[f"hyper_w_1.2.{kind}"]
                grads[f"mixer.w2.1.{kind}"] = mixer[f"hyper_w_2.2.{kind}"]
        return grads

    def train(self, batch: PaddedBatch) -> tuple[float, float]:
        """One gradient step; the loss and the gradient's norm."""
        loss = self.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.grad_norm_clip)
        self.optimiser.step()
        return float(loss.detach()), float(norm)

    def loss(self, batch: PaddedBatch) -> Tensor:
        q_values = self.agent.unroll(batch)
        chosen = torch.gather(q_values[:, :-1], 3, batch.actions[:, :-1, :, None]).squeeze(3)
        q_taken = self.mixer(chosen, batch.state[:, :-1])

        next_q = self.target_agent.unroll(batch)[:, 1:]
        unavailable = ~batch.avail_actions[:, 1:]
        next_q = next_q.masked_fill(unavailable, UNAVAILABLE)
        if self.config.double_q:
            online = q_values.detach()[:, 1:].masked_fill(unavailable, UNAVAILABLE)
            best = torch.gather(next_q, 3, online.max(dim=3, keepdim=True)[1]).squeeze(3)
        else:
            best = next_q.max(dim=3)[0]
        next_value = self.target_mixer(best, batch.state[:, 1:])

        targets = self._targets(batch, next_value).detach()
        mask = batch.filled[:, :-1, None].expand_as(q_taken)
        masked_td_error = (q_taken - targets) * mask
        loss: Tensor = (masked_td_error**2).sum() / mask.sum()
        return loss

    def _targets(self, batch: PaddedBatch, next_value: Tensor) -> Tensor:
        """[B, T, M]."""
        gamma, td_lambda = self.config.gamma, self.config.td_lambda
        reward, terminated = batch.reward[:, :-1, None], batch.terminated[:, :-1, None]
        targets = reward + gamma * (1 - terminated) * next_value
        if td_lambda == 0.0:
            return targets
        for b, length in enumerate(batch.filled.sum(1).long().tolist()):
            for t in range(length - 2, -1, -1):  # the last step's return is its one-step target
                mixed = (1 - td_lambda) * next_value[b, t] + td_lambda * targets[b, t + 1]
                targets[b, t] = reward[b, t] + gamma * mixed
        return targets
