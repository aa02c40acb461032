"""functorch, forward mode, double backward, checkpoints, fake and meta tensors, subclasses, export, jit."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import attnc

from .compose_models import Layer, attend, close, qkv, same_gradients, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch about its own TorchScript
plain = attnc.compile(written, backend="cpu", fallback="silent")


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant: bool) -> None:
    layer, x = Layer(), qkv(grad=True)
    sources = [*x, *layer.parameters()]
    checkpoint(layer, *x, use_reentrant=reentrant).square().sum().backward()
    expected = torch.autograd.grad(layer.as_written(*x).square().sum(), sources)
    for source, g in zip(sources, expected, strict=True):
        close(source.grad, g, 1e-3)


def test_func_grad_with_other_parameters() -> None:
    layer, x = Layer(), qkv()
    parameters = {k: v.detach() * 2 for k, v in layer.named_parameters()}

    def loss(parameters, q):
        return functional_call(layer, parameters, (q, *x[1:])).square().sum()

    found = grad(loss, (0, 1))(parameters, x[0])
    other = Layer()
    other.load_state_dict(parameters)
    q = x[0].clone().requires_grad_()
    value = other.as_written(q, *x[1:]).square().sum()
    close(loss(parameters, x[0]), value)
    expected = torch.autograd.grad(value, [*other.parameters(), q])
    for a, b in zip([*found[0].values(), found[1]], expected, strict=True):
        close(a, b, 1e-3)


def test_vjp() -> None:
    x = qkv()
    out, pull = vjp(plain, *x)
    expected, expected_pull = vjp(written, *x)
    close(out, expected)
    for a, b in zip(pull(out), expected_pull(out), strict=True):
        close(a, b, 1e-3)


def test_vmap() -> None:
    x = qkv()
    close(vmap(plain)(*x), written(*x))
    close(vmap(plain, in_dims=(0, None, None))(x[0], x[1][0], x[2][0]), written(x[0], x[1][0], x[2][0]))
    close(vmap(vmap(plain))(*x), written(*x))
    assert vmap(plain)(*(t[:0] for t in x)).shape == (0, 3, 12, 8)


def test_vmap_and_grad() -> None:
    x, y = qkv(), qkv(grad=True)
    expected = torch.autograd.grad(written(*y).square().sum(), y[0])[0]
    close(vmap(grad(lambda *x: plain(*x).square().sum()))(*x), expected, 1e-3)
    close(grad(lambda q: vmap(plain)(q, *x[1:]).square().sum())(x[0]), expected, 1e-3)
    close(torch.autograd.grad(vmap(plain)(*y).square().sum(), y[0])[0], expected, 1e-3)


def test_forward_mode_is_loud() -> None:
    f, x = attnc.compile(written, backend="cpu"), qkv()
    expected = jvp(lambda q: written(q, *x[1:]), (x[0],), (x[1],))
    with pytest.warns(attnc.FallbackWarning, match="forward mode"):
        found = jvp(lambda q: f(q, *x[1:]), (x[0],), (x[1],))
    close(found, expected)
    with pytest.raises(attnc.GradientNotAvailable):
        jvp(lambda q: attnc.compile(written, backend="cpu", fallback="error")(q, *x[1:]), (x[0],), (x[1],))


def test_higher_derivatives() -> None:
    x = [t[0, 0, :3].double() for t in qkv()]

    def of(f):
        return lambda q: f(q, *x[1:]).square().sum()

    close(hessian(of(plain))(x[0]), hessian(of(written))(x[0]))
    close(jacrev(grad(of(plain)))(x[0]), jacrev(grad(of(written)))(x[0]))
    close(
        grad(lambda q: grad(of(plain))(q).square().sum())(x[0]),
        grad(lambda q: grad(of(written))(q).square().sum())(x[0]),
    )
    third = jacrev(jacrev(grad(of(plain))))(x[0])
    close(third, jacrev(jacrev(grad(of(written))))(x[0]))


def test_double_backward_is_loud() -> None:
    f, x = attnc.compile(written, backend="cpu"), qkv(grad=True)
    expected = torch.autograd.grad(written(*x).square().sum(), x[0], create_graph=True)[0]
    with pytest.warns(attnc.FallbackWarning, match="differentiated"):
        found = torch.autograd.grad(f(*x).square().sum(), x[0], create_graph=True)[0]
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), x), torch.autograd.grad(expected.square().sum(), x), strict=True
    ):
        close(a, b, 1e-2)


def test_fake_and_meta_tensors() -> None:
    with FakeTensorMode():
        fakes = [torch.empty(2, 3, 12, 8, requires_grad=True) for _ in range(3)]
        assert plain(*fakes).shape == (2, 3, 12, 8)
    out = plain(*fakes)  # they bring their mode along
    assert type(out) is type(fakes[0])
    assert torch.autograd.grad(out.sum(), fakes[1])[0].shape == fakes[1].shape
    metas = [x.to("meta") for x in qkv()]
    assert plain(*metas).shape == (2, 3, 12, 8)
    assert plain(*metas).is_meta


class Tagged(torch.Tensor):
    """A subclass without methods of its own."""


def test_subclasses() -> None:
    x = qkv(grad=True)
    tagged = [t.detach().as_subclass(Tagged).requires_grad_() for t in x]
    out = plain(*tagged)
    assert type(out) is Tagged
    close(out.as_subclass(torch.Tensor), written(*x))
    out.square().sum().backward()
    expected = torch.autograd.grad(written(*x).square().sum(), x)
    for t, g in zip(tagged, expected, strict=True):
        close(t.grad.as_subclass(torch.Tensor), g, 1e-3)
    parameters = [torch.nn.Parameter(t.detach()) for t in x]
    same_gradients(plain(*parameters), written(*parameters), parameters)


def test_export() -> None:
    layer, x = Layer(), qkv()
    n = torch.export.Dim("n", min=2)
    exported = torch.export.export(layer, tuple(x), dynamic_shapes=[{2: n}] * 3)
    assert sum(str(node.target) == "attnc.run.default" for node in exported.graph.nodes) == 1
    with torch.no_grad():
        layer.bias.mul_(2)  # the exported program has its own name for it, and the same memory
    x = qkv(19)
    close(exported.module()(*x), layer.as_written(*x))


def test_jit_trace_is_refused() -> None:
    with pytest.raises(attnc.TransformError, match=r"compose_models.py:\d+.*torch.export"):
        torch.jit.trace(attend, tuple(qkv()))


def test_a_program_of_another_process() -> None:
    from attnc.frontends import library

    with pytest.raises(attnc.ProgramError, match="no program attend_0123 in this process"):
        library.run("attend_0123", qkv(), False)
