"""Runs auto_LiRPA's CROWN on one of PROVER's LSTMs: `tools/bench_verifier.py robust --peer CHECKOUT` calls this.

    PYTHON tools/peer_lirpa.py CHECKOUT NET.npz IMAGES.npz EPS COUNT

CHECKOUT: a working tree of auto_LiRPA, which is imported from there; PYTHON: one that has its requirements (torch).
Boxes are the first COUNT correctly classified images +- EPS, clipped to [0, 1]. Prints progress on stderr and, as the
last line on stdout, JSON: certified, mean_logit_width, cpu_seconds (an image: building the bounded graph, bounds of the
logits, bounds of the margins).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

checkout, net, images, eps, count = sys.argv[1:6]
sys.path.insert(0, checkout)
sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # noqa: E402
from convert_prover_net import samples  # noqa: E402


class Network(torch.nn.Module):
    """The LSTM unrolled, then the linear layer: x (B, T, D) -> logits (B, M)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with np.load(path, allow_pickle=False) as data:
            weights = {name: torch.tensor(data[name]) for name in data.files}
        self.units = weights["lstm_weight_hh_l0"].shape[1]
        self.W = torch.nn.Parameter(weights["lstm_weight_ih_l0"])
        self.R = torch.nn.Parameter(weights["lstm_weight_hh_l0"])
        self.b = torch.nn.Parameter(weights["lstm_bias_ih_l0"] + weights["lstm_bias_hh_l0"])
        self.V = torch.nn.Parameter(weights["linear_weight"])
        self.v = torch.nn.Parameter(weights["linear_bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        H, linear = self.units, torch.nn.functional.linear
        h = c = torch.zeros(x.shape[0], H)
        for t in range(x.shape[1]):
            frame = x[:, t, :]
            parts = [slice(k * H, (k + 1) * H) for k in range(4)]
            i, f, g, o = (linear(frame, self.W[p], self.b[p]) + linear(h, self.R[p]) for p in parts)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return linear(h, self.V, self.v)


def main() -> None:
    torch.set_num_threads(1)
    network = Network(Path(net)).eval()
    x, y = samples(Path(images), network.W.shape[1])
    with torch.no_grad():
        predicted = network(torch.tensor(x)).argmax(1).numpy()
    correct = np.flatnonzero(predicted == y)[: int(count)]
    certified, widths, seconds = 0, [], []
    for k in correct:
        started = time.process_time()
        center = torch.tensor(x[k : k + 1])
        lower, upper = torch.clamp(center - float(eps), 0, 1), torch.clamp(center + float(eps), 0, 1)
        bounded = BoundedModule(network, torch.empty_like(center), verbose=False)
        box = BoundedTensor(center, PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper))
        low, high = (b.detach() for b in bounded.compute_bounds(x=(box,), method="CROWN"))
        classes = low.shape[1]
        rivals = [j for j in range(classes) if j != y[k]]
        margins = torch.zeros(1, len(rivals), classes)
        margins[0, :, y[k]] = 1.0
        margins[0, range(len(rivals)), rivals] = -1.0
        least, _ = bounded.compute_bounds(x=(box,), C=margins, method="CROWN", bound_upper=False)
        seconds.append(time.process_time() - started)
        certified += bool((least > 0).all())
        widths.append(float((high - low).mean()))
        print(f"{k}: width {widths[-1]:.4g}, margin {float(least.detach().min()):.4g}", file=sys.stderr, flush=True)
    result = {
        "certified": certified,
        "mean_logit_width": float(np.mean(widths)),
        "cpu_seconds": float(np.mean(seconds)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
