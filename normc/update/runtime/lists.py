"""Steps of buckets on lists of tensors, as a CPU runs them, and what has no kernels anywhere. Needs torch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from normc.update.runtime.codes import CODES, decode, encode, scale_of, shape_of
from normc.update.runtime.decomposing import decomposed_by
from normc.update.runtime.faults import listed
from normc.update.runtime.loading import LoadingOptimizer
from normc.update.runtime.rounding import SEED, local, round_stochastically
from normc.update.runtime.run import Bucket, Run

# Entries of parameters that are stepped at once: a bound on copies of them, and of their states.
_PART = 2**24


class Share(NamedTuple):
    """What a step does to one bucket on lists of tensors: those of its parameters that have a gradient, by their places
    in the bucket (`live`), their names, and the gradients.
    """

    bucket: Bucket
    live: list[int]
    names: list[str]
    parameters: list[Tensor]
    gradients: list[Tensor]


class ListOptimizer(LoadingOptimizer):
    """Runs a bucket's generated function on the tensors of those parameters that have a gradient."""

    # By parameter, the steps at which a factor had no eigenpairs (Shampoo, SOAP).
    undecomposed: Mapping[str, int] = MappingProxyType({})
    _salts: Mapping[str, int] = MappingProxyType({})

    def _shares(self, buckets: Sequence[Bucket], members: Mapping[str, Tensor]) -> list[Share]:
        """What a step does to buckets on lists of tensors. Fails on a gradient that no update can take."""
        shares = []
        for bucket in buckets:
            found = [members.get(name) for name in bucket.names]
            live = [index for index, tensor in enumerate(found) if tensor is not None and tensor.grad is not None]
            if live:
                self._check_whole(bucket, [members[bucket.names[index]] for index in live])
                names = [bucket.names[index] for index in live]
                parameters = [members[name] for name in names]
                shares.append(Share(bucket, live, names, parameters, list(map(self._gradient, names, parameters))))
        return shares

    def _step(self, share: Share, finite: Tensor | None) -> None:
        """Step a share; nothing is written where the flag `finite` is false."""
        bucket, parameters = share.bucket, share.parameters
        if bucket.holds_gradients:
            self._check_held(share.names, parameters, share.gradients)
        if bucket.pieces:
            self._step_pieces(share, finite)
        else:
            for part in self._parts(share):
                self._step_part(part, finite)
        if bucket.holds_gradients:
            self._watch_held(share.names, parameters)

    def _parts(self, share: Share) -> Iterator[Share]:
        """A share in parts of about `_PART` entries, if its function works on each parameter by itself."""
        if not share.bucket.apart:
            yield share
            return
        start, entries = 0, 0
        for stop, parameter in enumerate(share.parameters):
            if entries and entries + parameter.numel() > _PART:
                yield _cut(share, start, stop)
                start, entries = stop, 0
            entries += parameter.numel()
        yield _cut(share, start, len(share.parameters))

    def _step_part(self, share: Share, finite: Tensor | None) -> None:
        bucket, parameters = share.bucket, share.parameters
        states = {name: [self._state(p, name, kind) for p in parameters] for name, kind in bucket.states}
        near = self._brought(bucket, states, parameters)
        self._update(bucket, share.live, parameters, share.gradients, dict(near), finite)
        for name, own in states.items():
            for home, here in zip(own, near[name], strict=True):
                if home is not here:
                    home.copy_(here, non_blocking=here.is_cuda)  # which `_land` waits for

    def _brought(
        self, bucket: Bucket, states: Mapping[str, list[Tensor]], parameters: list[Tensor]
    ) -> Mapping[str, list[Tensor]]:
        """A bucket's states, copied beside their parameters where they are kept elsewhere. The host's counts stay."""
        if not self.update.offload:
            return states
        return {
            name: states[name] if kind == "count" else list(map(_beside, states[name], parameters))
            for name, kind in bucket.states
        }

    def _check_whole(self, bucket: Bucket, parameters: list[Tensor]) -> None:
        """Fails on parameters that are spread over processes, whose states can't be kept as codes or on the host."""
        coded = any(kind == CODES for _, kind in bucket.states)
        if (coded or self.update.offload) and any(hasattr(parameter, "to_local") for parameter in parameters):
            self._fail(
                f"{bucket.names[0]!r} is spread over processes (DTensor): its states can't be in int8, nor on the host",
                "leave state_dtype=torch.int8 and state_device out; torch.bfloat16 works",
            )

    def _step_pieces(self, share: Share, finite: Tensor | None) -> None:
        """`_step` of parameters one after another, in pieces. Their gradients are their only state."""
        for index, parameter, grad in zip(share.live, share.parameters, share.gradients, strict=True):
            start = 0
            for part, own in _pieces(parameter, grad, share.bucket.pieces):
                states = {name: [own] for name, _ in share.bucket.states}
                self._update(share.bucket, [index], [part], [own], states, finite, start)
                start += part.numel()

    def _update(
        self,
        bucket: Bucket,
        live: list[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: dict[str, list[Tensor]],
        finite: Tensor | None,
        start: int = 0,
    ) -> None:
        """Run a bucket's function; put back what was there where the flag `finite` is false. Of flat pieces, `start` is
        the place of the first entry in its parameter.
        """
        written = [] if finite is None else [*parameters, *_kept(bucket, states)]
        before = [tensor.clone() for tensor in written]
        self._run(bucket, live, parameters, gradients, states, start)
        for tensor, old in zip(written, before, strict=True):
            assert finite is not None
            tensor.copy_(torch.where(finite.to(tensor.device, non_blocking=True), tensor, old))

    def _run(
        self,
        bucket: Bucket,
        live: list[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: dict[str, list[Tensor]],
        start: int,
    ) -> None:
        """Run a bucket's function in the dtypes that it computes in; round what is narrower once, behind it."""
        compute_dtypes = [self._dtype(parameter) for parameter in parameters]
        weights, grads = _converted(parameters, compute_dtypes), _converted(gradients, compute_dtypes)
        group = self.param_groups[bucket.group]
        written = [(parameters, weights)]
        coded = []
        for name, kind in bucket.states:
            if kind == CODES:
                codes, scales = states[name], states[scale_of(name)]
                states[name] = list(map(decode, codes, scales, compute_dtypes))
                coded.append((states[name], codes, scales))
            if kind == "grad" or (kind == "like" and self.update.state is not None):
                written.append(
                    (gradients, grads) if kind == "grad" else (states[name], _converted(states[name], compute_dtypes))
                )
                states[name] = written[-1][1]
        shapes = [self.update.entries[name].shape for name in bucket.names]
        run = Run(weights, grads, states, live, shapes, group, self.cores)
        if bucket.decomposes:
            self._count_undecomposed(decomposed_by(bucket, run))
        else:
            bucket.step(run)
        nearest = []
        for place, pair in enumerate(written):
            for index, old, new in zip(live, *pair, strict=True):
                if old is not new and old.dtype == torch.bfloat16 and self.update.stochastic:
                    salt = self._salts[bucket.names[index]]
                    local(old).copy_(round_stochastically(local(new), group[SEED], salt, place, start))
                elif old is not new:
                    nearest.append((old, new))
        if nearest:
            torch._foreach_copy_([old for old, _ in nearest], [new for _, new in nearest])
        for lists in coded:
            for value, codes_of, scales_of in zip(*lists, strict=True):
                encode(value, codes_of, scales_of)

    def _count_undecomposed(self, names: Sequence[str]) -> None:
        """Count the parameters a factor of which has no eigenpairs, and say so once."""
        if not names:
            return
        self.undecomposed = {**self.undecomposed, **{name: self.undecomposed.get(name, 0) + 1 for name in names}}
        text = f"a factor of {listed(names)} has no eigenpairs, in float64 either: the last ones are kept, or none"
        self._tell("eigh", f"{text}\n  fix: look for what spoiled its gradients; opt.undecomposed counts them")

    def _gradient(self, name: str, parameter: Tensor) -> Tensor:
        self._check_shape(name, parameter)
        grad = parameter.grad
        assert grad is not None
        if grad.layout is not torch.strided:
            self._fail(f"the gradient of {name!r} is sparse", "make the embedding with sparse=False")
        self._check_real(name, grad)
        return grad

    def _state(self, parameter: Tensor, name: str, kind: str) -> Tensor:
        if kind == "grad":
            assert parameter.grad is not None
            return parameter.grad
        state = self.state[parameter]
        if name not in state:
            state[name] = self._new_state(parameter, kind)
        elif kind == "like" and self.update.state not in (None, state[name].dtype):  # loaded before the plan was known
            state[name] = state[name].to(self.update.state)
        value: Tensor = state[name]
        if self.update.offload and kind != "count" and parameter.is_cuda and not value.is_pinned():  # out of a pickle
            value = state[name] = self._at_home(parameter, value)
        return value

    def _new_state(self, parameter: Tensor, kind: str) -> Tensor:
        """A parameter's state before its first step: zero."""
        if kind == "count":
            return torch.tensor(0.0)
        dtype = self._kept_in(parameter, kind)
        device = torch.device("cpu") if self.update.offload else parameter.device
        if kind == "like":
            made = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format, device=device)
        else:
            made = torch.zeros(shape_of(kind, parameter.shape), dtype=dtype, device=device)
        return self._at_home(parameter, made)


def _cut(share: Share, start: int, stop: int) -> Share:
    """Some of the parameters of a share."""
    own = slice(start, stop)
    return Share(share.bucket, share.live[own], share.names[own], share.parameters[own], share.gradients[own])


def _beside(state: Tensor, parameter: Tensor) -> Tensor:
    """A state where its parameter is: itself, or a copy that is under way."""
    return state.to(parameter.device, non_blocking=True)


def _kept(bucket: Bucket, states: Mapping[str, list[Tensor]]) -> list[Tensor]:
    """The states that lie beside their parameter; the host's counts don't."""
    return [tensor for name, kind in bucket.states if kind != "count" for tensor in states[name]]


def _converted(tensors: list[Tensor], dtypes: list[torch.dtype]) -> list[Tensor]:
    """Copies in these dtypes; a tensor itself where it has its own already."""
    return [tensor.to(dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]


def _pieces(parameter: Tensor, grad: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Flat views of a parameter and its gradient, `size` entries at most; both whole where they don't lie in order."""
    if parameter.numel() <= size or not (parameter.is_contiguous() and grad.is_contiguous()):
        yield parameter, grad
        return
    yield from zip(parameter.view(-1).split(size), grad.view(-1).split(size), strict=True)
