r"""VRGD: SGD whose coordinates are slowed down where the parts of a large batch disagree about the gradient.

.. math:: r = \frac{g^2}{\sigma^2}, \qquad p \leftarrow p - \mathrm{lr}\; \mathrm{clip}\Big(\frac{r}{\mathrm{mean}(r)}, \gamma, 1\Big)\, g

:math:`\sigma^2` is the variance between the parts' gradients, the mean that over the tensor, :math:`\gamma` = ``floor``. One gradient for
every part: ``optimizer.step(parts=[...])``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend, scale_by_signal_to_noise


@method(
    label="VRGD",
    title="Accelerating Large Batch Training via Gradient Signal to Noise Ratio (GSNR)",
    arxiv="2309.13681",
    year=2023,
    section="VR-SGD",
    notes="Where the parts agree to the last digit a coordinate is left unscaled and left out of the mean. The parts stand for the paper's "
    "devices. Its Adam, LARS and LAMB variants, which also average the ratio, are not here.",
    space={"lr": log(3e-3, 3.0), "floor": linear(0.05, 1.0), "weight_decay": log(1e-6, 1e-2)},
)
def vrgd(lr: Hyper = 0.1, floor: Hyper = 0.1, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), scale_by_signal_to_noise(floor), descend(lr))


@vrgd.claim("where all parts agree, or with floor = 1, it is SGD", where="algorithm 1")
def is_sgd(lab):
    grads = [lab.gradient(seed=t) for t in range(5)]
    for floor in (0.1, 1.0):
        ours = lab.follow(vrgd, grads, lr=0.1, floor=floor)
        yield lab.equal(ours[-1], lab.follow(lab.method("sgd"), grads, lr=0.1)[-1])


@vrgd.claim(
    "of two coordinates with the same gradient the noisier one moves less, by a factor of at most 1 / floor",
    where="algorithm 1",
)
def noisy_ones_are_slower(lab):
    slower = lab.move_by_parts(vrgd, noise=(1.0, 5.0), lr=0.1)
    yield lab.less(float(slower[1] / slower[0]), 0.5)
    yield lab.ratio(float(slower[1]), float(slower[0]), equals=0.1)
    yield lab.ratio(*(float(x) for x in lab.move_by_parts(vrgd, noise=(2.0, 2.0), lr=0.1)), equals=1.0)
