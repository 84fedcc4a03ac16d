"""Optimizer of GPT2LMHeadModel: recipe auto, 148 parameters.

The default: modular targets, with decay, for one lr on every model (arXiv
2410.21265; what differs from it and what that gains is in docs/evidence.md).
Written by normc 0.1.0 from plan f33b91de1a4befea; needs torch alone.

    opt = Optimizer(model.named_parameters())

Steps are computed in float32 (float64 for parameters in float64), as states
are kept; parameters are rounded once, at the end. Functions take tensors with
one more axis, of size one, in front. Values that aren't finite spread, as in
torch's optimizers.
"""

import math
from collections import defaultdict
from itertools import product

import torch
from torch import Tensor

POLYNOMIALS = (
    (7.996622083237705, -21.18650907793565, 14.38189113440374),
    (4.042929935166727, -2.808917465908706, 0.5000178451051299),
    (3.8916678022926625, -2.7724841532176843, 0.5060648178503389),
    (3.2857536577556563, -2.368129493342539, 0.46449024233003106),
    (2.34654132585964, -1.709782838268708, 0.42323551169305257),
)
DEPTH = torch.tensor([
    1.0, 1.2176407, 1.4056322, 1.5738679, 1.7276998, 1.8704153, 2.0042074,
    2.1306267, 2.2508179, 2.3656552, 2.475824, 2.5818742,
], dtype=torch.float64)
DEPTH_2 = torch.tensor([
    1.0, 1.1944248, 1.3644125, 1.5176269, 1.6583857, 1.789411, 1.9125517,
    2.0291326, 2.1401421, 2.2463411, 2.3483303, 2.4465941,
], dtype=torch.float64)


def unit(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x over its 2-norm along `dims`; zero stays zero."""
    peak = x.abs().amax(dims, keepdim=True)
    level = x / torch.where(peak > 0, peak, 1.0)
    length = level.square().sum(dims, keepdim=True).sqrt()
    return level / torch.where(length > 0, length, 1.0)


def rms(d: Tensor) -> Tensor:
    """Each stacked tensor [N, ...] over its root mean square."""
    size = math.prod(d.shape[1:])
    wide = d.reshape(d.shape[0], size)
    return unit(wide, (-1,)).mul(math.sqrt(size)).reshape(d.shape)


def adam_direction(m, v, step, momentum, beta2, eps):
    """Adam's direction m/(1 - momentum^t) / (sqrt(v/(1 - beta2^t)) + eps)."""
    step = step.to(m)
    first = 1.0 - torch.pow(momentum, step)
    second = 1.0 - torch.pow(beta2, step)
    return m / first / (v.sqrt() / second.sqrt() + eps)


def polar(x, polynomials):
    """Newton-Schulz: matrices [B, out, in] with all singular values about one.
    """
    y = unit(x, (-2, -1))
    tall = x.shape[-2] > x.shape[-1]
    y = y.mT if tall else y
    for a, b, c in polynomials:
        gram = y @ y.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, gram, y, beta=a)
    return y.mT if tall else y


def as_matrices(x: Tensor, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """[1, *parameter] as [blocks, out, in]: split, transposed, merged."""
    if not view:
        return x
    sizes, order, shape = view
    return x.reshape(sizes).permute(order).reshape(shape)


def as_parameter(x, view, shape):
    """The inverse of `as_matrices`."""
    if not view:
        return x
    sizes, order, _ = view
    split = x.reshape([sizes[axis] for axis in order])
    return split.movedim(tuple(range(len(order))), order).reshape(shape)


def step_adam(w, g, state, radius, ratio, lr, momentum, beta2, eps,
              weight_decay, **_):
    """Output: 1 parameter, rule adam."""
    if not state:
        state |= {"step": torch.zeros(1)}
    t = state["step"] + 1.0  # one step more
    m = state["exp_avg"].lerp(g, 1.0 - momentum)  # the running average
    v = state["exp_avg_sq"] * beta2 + g * g * (1.0 - beta2)
    d = adam_direction(m, v, t, momentum, beta2, eps)
    w = w - d * (radius * lr)  # a step against d
    w = w * (1.0 - ratio * (lr * weight_decay))  # decoupled weight decay
    return w, {"step": t, "exp_avg": m, "exp_avg_sq": v}


def step_colnorm(w, g, state, view, radius, lr, momentum, weight_decay, **_):
    """Position: 1 parameter, norm colnorm."""
    m = state["momentum_buffer"].lerp(g, 1.0 - momentum)  # the running average
    d = g.lerp(m, momentum)  # look one step ahead
    u = unit(as_matrices(d, view), (-2,))  # every column of each matrix
    y = as_parameter(u, view, w.shape)
    w = w - y * (radius * lr)  # a step against d
    w = w * (1.0 - radius * (lr * weight_decay))  # decoupled weight decay
    return w, {"momentum_buffer": m}


def step_rms(w, g, state, view, radius, ratio, lr, momentum, weight_decay,
             **_):
    """Bias, gain: 98 parameters, norm rms."""
    m = state["momentum_buffer"].lerp(g, 1.0 - momentum)  # the running average
    d = g.lerp(m, momentum)  # look one step ahead
    u = rms(as_matrices(d, view))
    y = as_parameter(u, view, w.shape)
    w = w - y * (radius * lr)  # a step against d
    w = w * (1.0 - ratio * (lr * weight_decay))  # decoupled weight decay
    return w, {"momentum_buffer": m}


def step_spectral(w, g, state, view, radius, ratio, lr, momentum, weight_decay,
                  **_):
    """Hidden: 48 parameters, norm spectral."""
    m = state["momentum_buffer"].lerp(g, 1.0 - momentum)  # the running average
    d = g.lerp(m, momentum)  # look one step ahead
    u = polar(as_matrices(d, view), POLYNOMIALS)
    y = as_parameter(u, view, w.shape)
    w = w - y * (radius * lr)  # a step against d
    w = w * (1.0 - ratio * (lr * weight_decay))  # decoupled weight decay
    return w, {"momentum_buffer": m}


# Function, parameter group, name, values of its stars, shape, arguments.
TABLE = (
    # output, fan-in on axis 1; radius, ratio
    (step_adam, 1, "transformer.wte.weight", (), (50257, 768), 0.0065928301,
     0.18270587),
    # position, fan-in on axis 0; view, radius
    (step_colnorm, 1, "transformer.wpe.weight", (), (1024, 768),
     ((1024, 768), (1, 0), (1, 768, 1024)), 0.043661735),
    # bias, blocks q k v; view, radius, ratio
    (step_rms, 1, "transformer.h.*.attn.c_attn.bias", (range(12),), (2304,),
     ((3, 768), (0, 1), (3, 768, 1)), 0.0020114824 * DEPTH,
     0.0020114824 * DEPTH),
    # bias; view, radius, ratio
    (step_rms, 1, "transformer.h.*.ln_1.bias", (range(12),), (768,), (),
     0.0020114824 * DEPTH, 0.0020114824 * DEPTH),
    (step_rms, 1, "transformer.h.*.attn.c_proj.bias", (range(12),), (768,), (),
     0.0020114824 * DEPTH, 0.0020114824 * DEPTH),
    (step_rms, 1, "transformer.h.*.ln_2.bias", (range(12),), (768,), (),
     0.0033116623 * DEPTH_2, 0.0033116623 * DEPTH_2),
    (step_rms, 1, "transformer.h.*.mlp.c_proj.bias", (range(12),), (768,), (),
     0.0021478819 * DEPTH_2, 0.0021478819 * DEPTH_2),
    (step_rms, 1, "transformer.ln_f.bias", (), (768,), (), 0.011904762,
     0.011904762),
    (step_rms, 1, "transformer.h.*.mlp.c_fc.bias", (range(12),), (3072,), (),
     0.0033116623 * DEPTH_2, 0.0033116623 * DEPTH_2),
    # gain; view, radius, ratio
    (step_rms, 1, "transformer.h.*.ln_1.weight", (range(12),), (768,), (),
     0.0020114824 * DEPTH, 0.0),
    (step_rms, 1, "transformer.h.*.ln_2.weight", (range(12),), (768,), (),
     0.0033116623 * DEPTH_2, 0.0),
    (step_rms, 1, "transformer.ln_f.weight", (), (768,), (), 0.011904762, 0.0),
    # hidden, fan-in on axis 0, blocks q k v; view, radius, ratio
    (step_spectral, 0, "transformer.h.*.attn.c_attn.weight", (range(12),),
     (768, 2304), ((768, 3, 768), (1, 2, 0), (3, 768, 768)),
     0.020114824 * DEPTH, 0.020114824 * DEPTH),
    # hidden, fan-in on axis 0; view, radius, ratio
    (step_spectral, 0, "transformer.h.*.attn.c_proj.weight", (range(12),),
     (768, 768), ((768, 768), (1, 0), (1, 768, 768)), 0.020114824 * DEPTH,
     0.020114824 * DEPTH),
    (step_spectral, 0, "transformer.h.*.mlp.c_fc.weight", (range(12),),
     (768, 3072), ((768, 3072), (1, 0), (1, 3072, 768)), 0.066233246 * DEPTH_2,
     0.033116623 * DEPTH_2),
    (step_spectral, 0, "transformer.h.*.mlp.c_proj.weight", (range(12),),
     (3072, 768), ((3072, 768), (1, 0), (1, 768, 3072)), 0.018700833 * DEPTH_2,
     0.037401665 * DEPTH_2),
)
ALIASES = {"lm_head.weight": "transformer.wte.weight"}


def _rows():
    """Yield (name, (shape, group, update, arguments)) of each parameter."""
    for update, group, pattern, over, shape, *arguments in TABLE:
        for place, values in enumerate(product(*over)):
            name = pattern
            for value in values:
                name = name.replace("*", str(value), 1)
            own = [x[place].item() if isinstance(x, Tensor) else x
                   for x in arguments]
            yield name, (shape, group, update, own)


ROWS = dict(_rows())


class Optimizer(torch.optim.Optimizer):
    """Steps the parameters of TABLE, in 2 groups: matrices, rest."""

    def __init__(self, named_parameters, lr=0.8, momentum=0.9,
                 weight_decay=0.1, beta2=0.95, eps=1e-10):
        values = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                  "beta2": beta2, "eps": eps}
        groups = [{"params": []} for _ in range(2)]
        given = {ALIASES.get(n, n): p for n, p in named_parameters}
        wrong = [f"{name!r} is unknown" for name in given if name not in ROWS]
        for name, (shape, group, *_) in ROWS.items():
            if name not in given:
                wrong.append(f"{name!r} is missing")
            elif given[name].shape != shape:
                wrong.append(f"{name!r} has not the shape {shape}")
            else:
                groups[group]["params"].append((name, given[name]))
        if wrong:
            raise ValueError(f"not the planned model: {'; '.join(wrong[:9])}")
        super().__init__(groups, values)

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step. `closure` computes the loss and its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for name, p in zip(group["param_names"], group["params"]):
                if p.grad is not None:
                    _, _, update, arguments = ROWS[name]
                    self._update(p, update, arguments, group)
        return loss

    def _update(self, p, update, arguments, group):
        dtype = torch.promote_types(p.dtype, torch.float32)
        w, g = p.to(dtype)[None], p.grad.to(dtype)[None]
        state = defaultdict(lambda: torch.zeros_like(w))
        for key, value in self.state[p].items():
            state[key] = value.to(dtype)[None]
        w, state = update(w, g, state, *arguments, **group)
        p.copy_(w[0])
        self.state[p] = {key: value[0] for key, value in state.items()}
