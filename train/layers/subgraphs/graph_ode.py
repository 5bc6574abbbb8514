"""A graph convolution as an ordinary differential equation with a fixed-step solver (as in CGNN, Xhonneux et al.

2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .graph import RELATIONS, Graph

SOLVERS = ("rk4", "euler")


def integrate(
    change: Callable[[Tensor], Tensor], x: Tensor, steps: int, horizon: float = 1.0, solver: str = "rk4"
) -> Tensor:
    """The state at time `horizon` of dx/dt = change(x), from x at time 0.

    Args:
        change: maps a tensor to one of the same shape.
        x: the initial state; returned if `steps` is 0.
        steps: number of steps of equal length.
        horizon: the time span.
        solver: "rk4", the classical method of Runge and Kutta, with an error of fourth order in the step; or "euler",
            with one of first order.
    """
    step = horizon / steps if steps else 0.0
    for _ in range(steps):
        first = change(x)
        if solver == "euler":
            x = x + step * first
            continue
        second = change(x + step / 2 * first)
        third = change(x + step / 2 * second)
        fourth = change(x + step * third)
        x = x + step / 6 * (first + 2 * second + 2 * third + fourth)
    return x


class GraphODE(nn.Module):
    """dX/dt = tanh(A X W) - X + X(0) on the graph of nearby utterances; X at `horizon` from X(0).

    A row of A is a softmax over the neighbours of an utterance of one learned number per relation (itself, the same
    speaker before and after, others before and after), so that it sums to 1; the numbers are initialised equal. The
    last term, the restart, keeps the state near its initial value for any horizon. With it, one Euler step of length 1
    is the graph layer X + tanh(A X W).

    Args:
        size: channels.
        steps, horizon, solver: as for `integrate`.
        restart: whether the equation has the term X(0).
        relations: whether relations differ; otherwise A averages over the neighbours.
    """

    def __init__(
        self,
        size: int,
        steps: int = 4,
        horizon: float = 1.0,
        solver: str = "rk4",
        restart: bool = True,
        relations: bool = True,
    ) -> None:
        super().__init__()
        self.steps, self.horizon, self.solver, self.restart = steps, horizon, solver, restart
        self.linear = nn.Linear(size, size, bias=False)
        self.relation = nn.Parameter(torch.zeros(RELATIONS - 1)) if relations else None

    def adjacency(self, inter: Graph, intra: Graph) -> Tensor:
        """A, block by block: [count, size, span], 0 where there is no edge.

        Args:
            inter, intra: the speaker graphs; an edge is in either of them, self-loops are in both.
        """
        near = inter.mask | intra.mask
        scores = self.linear.weight.new_zeros(())
        if self.relation is not None:
            own, other = (self.relation[graph.relation - 1] for graph in (intra, inter))
            scores = torch.where(intra.mask, own, other)
        return scores.expand(near.shape).masked_fill(~near, -torch.inf).softmax(-1)

    def forward(self, x: Tensor, inter: Graph, intra: Graph) -> Tensor:
        """States [N, size] at time 0 to those at `horizon`."""
        weights = self.adjacency(inter, intra)[None]

        def change(state: Tensor) -> Tensor:
            message = torch.tanh(inter.blocks.gather(weights, self.linear(state)[None])[0])
            return message - state + x if self.restart else message - state

        return integrate(change, x, self.steps, self.horizon, self.solver)
