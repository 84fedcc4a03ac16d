"""The class of a plain file, as text with places for what a plan decides."""

from __future__ import annotations

TEMPLATE = '''def _rows():
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
{told}

{init}
{values}
        groups = [{{"params": []}} for _ in range({number})]
{parted}        given = {given}
        wrong = [f"{{name!r}} is unknown" for name in given if name not in ROWS]
        for name, (shape, group, {update}) in ROWS.items():
            if name not in given:
                wrong.append(f"{{name!r}} is missing")
            elif given[name].shape != shape:
                wrong.append(f"{{name!r}} has not the shape {{shape}}")
            {idle}:
                groups[group]["params"].append((name, given[name]))
        if wrong:
            raise ValueError(f"not the planned model: {{'; '.join(wrong[:9])}}")
        super().__init__(groups, {defaults})

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
        self.state[p] = {{key: value[0] for key, value in state.items()}}
{held}
{load}'''

# A gradient that is the running average itself.
HELD = """        if "{state}" in state:
            p.grad.copy_(self.state[p].pop("{state}"))

    def zero_grad(self, set_to_none=True):
        \"\"\"Do nothing: gradients are the running average, and stay.\"\"\"
"""

# For parameters in 16 bits.
LOAD = """
    def load_state_dict(self, state_dict):
        \"\"\"As torch's, but states keep their dtype, whatever the weights'.\"\"\"
        super().load_state_dict(state_dict)
        every = [p for group in self.param_groups for p in group["params"]]
        for index, state in state_dict["state"].items():
            for key, value in state.items():
                if key != "step":
                    value = value.to(every[index].device)
                self.state[every[index]][key] = value.clone()
"""

# For values that differ between parameter groups.
PARTED = """        for place, group in enumerate(groups):
            for key, value in values.items():
                alone = not isinstance(value, tuple)
                group[key] = value if alone else value[place]
"""
