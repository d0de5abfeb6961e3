r"""EF-signSGD: send scaled signs, and add what they leave out to the next step.

.. math::
    q_t = \mathrm{lr}\, g_t + e_{t-1}, \qquad \Delta_t = \frac{\|q_t\|_1}{d}\, \mathrm{sign}(q_t), \qquad
    p \leftarrow p - \Delta_t, \qquad e_t = q_t - \Delta_t

for each tensor of d entries.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, compress_to_signs, descend


@method(
    label="EFSignSGD",
    title="Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
    arxiv="1901.09847",
    year=2019,
    section="algorithm 1",
    notes="Compressed tensor by tensor, as in the paper's experiments; its algorithm takes one vector.",
    space={"lr": log(1e-3, 1.0), "weight_decay": log(1e-6, 1e-2)},
)
def ef_signsgd(lr: Hyper = 1e-2, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), descend(lr), compress_to_signs())


@ef_signsgd.claim(
    "nothing is lost: the iterate is SGD's, but for the error still held back", where="section 4, x tilde"
)
def shadow_of_sgd(lab):
    p = lab.start()
    ours, held = lab.start(), 0.0
    path = lab.follow(ef_signsgd, [lab.gradient(seed=t) for t in range(20)], lr=0.1)
    for t in range(20):
        p = p - 0.1 * lab.gradient(seed=t)
        held = held + 0.1 * lab.gradient(seed=t) - (path[t] - path[t + 1])
        ours = path[t + 1]
    yield lab.close(ours - held, p, rtol=1e-9)


@ef_signsgd.claim(
    "signSGD fails where one of two gradients outweighs the other by its sign alone", where="section 3, ex. 1"
)
def counterexample(lab):
    # f has slope 4 with probability 1/4 and -1 else: its mean slope is 1/4, the mean sign -1/2
    grads = [lab.gradient() * 0 + (4.0 if t % 4 == 0 else -1.0) for t in range(400)]
    ours = lab.follow(ef_signsgd, grads, lr=0.01)[-1] - lab.start()
    theirs = lab.follow(lab.method("signsgd"), grads, lr=0.01)[-1] - lab.start()
    yield lab.less(float(ours.max()), -0.5)
    yield lab.less(0.5, float(theirs.min()))
