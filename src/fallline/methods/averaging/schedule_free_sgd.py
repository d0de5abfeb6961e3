r"""Schedule-free SGD: take gradients between the fast iterate z and its average x, and return x; the rate stays constant.

.. math::
    y_t = (1 - \beta) z_t + \beta x_t, \qquad z_{t+1} = z_t - \gamma_t \nabla f(y_t), \qquad
    x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}, \qquad c_{t+1} = \frac{\gamma_t^2}{\sum_{i \le t} \gamma_i^2}

with :math:`\gamma` = ``lr``, :math:`\beta` = ``b1``. The parameter is y; ``fallline.averaged(optimizer)`` evaluates at x.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend, schedule_free


@method(
    label="ScheduleFreeSGD",
    title="The Road Less Scheduled",
    arxiv="2405.15682",
    year=2024,
    section="equations 2 to 4",
    notes="c weighs by lr^2 as in the paper; the authors' code by the largest lr so far squared, the same under warm-up. Pass a "
    "warm-up as lr.",
    space={"lr": log(1e-2, 10.0), "b1": one_minus_log(0.5, 0.98), "weight_decay": log(1e-6, 1e-2)},
    xfail={"movement_dies_out": "once z rests the average, and so y, still goes to it, by 1 / t of the way a step"},
)
def schedule_free_sgd(lr: Hyper = 1.0, b1: Hyper = 0.9, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), descend(lr), schedule_free(lr, b1))


@schedule_free_sgd.claim("it needs no more memory than SGD with momentum", where="section 4")
def memory(lab):
    numbers = 4 / 256**2  # one number a tensor, of the 256 x 256 that bytes are counted on
    yield lab.close(schedule_free_sgd.state_bytes(), lab.method("nesterov").state_bytes() + numbers)


@schedule_free_sgd.claim("the result is the average of the sequence z", where="eq. 4")
def average_of_z(lab):
    grads = [lab.gradient(seed=t) for t in range(12)]
    z, zs = lab.start(), []
    for g in grads:
        z = z - 0.1 * g
        zs.append(z)
    yield lab.close(lab.average(schedule_free_sgd, grads, lr=0.1), sum(zs) / len(zs), rtol=1e-9)
